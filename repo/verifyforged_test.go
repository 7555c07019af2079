package repo_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/store/memstore"
)

// forge changes one byte of an object's stream, in cells whose tags and parity are right: they need no key.
func forge(t testing.TB, file []byte, at int) (forged []byte, g cell.Geometry) {
	t.Helper()
	stream, g, _, err := cell.Decode(file)
	require.NoError(t, err)
	stream[(at+len(stream))%len(stream)] ^= 1
	id := cell.Ident{Kind: g.Kind, Object: g.Object}
	copy(id.Repo[:], g.RepoPrefix[:])
	w := cell.NewWriter(id, 30, len(stream))
	_, err = w.Write(stream)
	require.NoError(t, err)
	forged, err = w.Finish()
	require.NoError(t, err)
	require.Len(t, forged, len(file))
	return forged, g
}

// Another person's slot cannot be opened by who repairs. One of its places that was forged does not take the other two along.
func TestForgedPlaceOfAnothersSlot(t *testing.T) {
	ctx := t.Context()
	for _, prefix := range []string{"", "copy1/", "copy2/"} {
		st := memstore.New(nil)
		r := newRepository(t, st, nil)
		theirs := repo.KeyFile(repo.NewKey())
		id, err := r.AddSlot(ctx, theirs, "another person's")
		require.NoError(t, err)
		name := prefix + "slot/" + id
		genuine := read(t, st, name)
		forged, _ := forge(t, genuine, -1)
		st.Set(name, forged)
		rep, err := r.Verify(ctx, &repo.VerifyOptions{Repair: true})
		require.NoError(t, err)
		require.True(t, rep.OK)
		require.Equal(t, []string{name}, rep.Repaired)
		require.Equal(t, genuine, read(t, st, name))
		other, err := repo.Open(ctx, st, theirs, openOptions(t))
		require.NoError(t, err)
		require.NoError(t, other.Close())
	}
}

// Where two places that look whole contradict each other, nobody can say which one is right: both stay, and are told.
func TestContradictingPlacesOfAnothersSlot(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	id, err := r.AddSlot(ctx, repo.KeyFile(repo.NewKey()), "another person's")
	require.NoError(t, err)
	forged, _ := forge(t, read(t, st, "slot/"+id), -1)
	st.Set("slot/"+id, forged)
	require.NoError(t, st.Remove(ctx, "copy1/slot/"+id))
	genuine := read(t, st, "copy2/slot/"+id)
	rep, err := r.Verify(ctx, &repo.VerifyOptions{Repair: true})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.Len(t, rep.Damaged, 3)
	require.Equal(t, forged, read(t, st, "slot/"+id))
	require.Equal(t, genuine, read(t, st, "copy2/slot/"+id))
}

// Parity that is whole cell by cell and belongs to other data mends nothing: it is found before it is needed, and the content is
// written again.
func TestForgedParity(t *testing.T) {
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	st := g.st.Clone()
	for _, name := range names(t, st) {
		if !strings.HasPrefix(name, "data/") && !strings.HasPrefix(name, "meta/") {
			continue
		}
		file := read(t, st, name)
		other, geo := forge(t, file, 0)
		copy(file[geo.N*cell.Size:], other[geo.N*cell.Size:])
		st.Set(name, file)
	}
	r := reopen(t, st)
	rep, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.Empty(t, rep.Affected)
	g.mended(t, st, nil)
	g.requireWhole(t, st)
}

// Whoever scrubs without a key puts nothing into an object's place that was computed from cells which contradict each other.
func TestScrubOfContradictingCells(t *testing.T) {
	st := manyPacks(t, 1)
	name := ""
	for _, n := range names(t, st) {
		if strings.HasPrefix(n, "data/") {
			name = n
		}
	}
	file := read(t, st, name)
	forged, g := forge(t, file, 0)
	require.Greater(t, g.N, 3)
	copy(file[:cell.Size], forged[:cell.Size]) // one that looks whole
	clear(file[2*cell.Size : 3*cell.Size])     // and one that is lost
	st.Set(name, file)
	p, err := repo.OpenPublic(t.Context(), st, nil)
	require.NoError(t, err)
	rep, err := p.Scrub(t.Context(), &repo.ScrubOptions{Repair: true})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.Empty(t, rep.Repaired)
	require.Equal(t, file, read(t, st, name))
}
