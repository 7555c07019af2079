package repo_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// What a store holds, by name.
func contentsOf(t testing.TB, st store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range names(t, st) {
		b, err := store.ReadAll(t.Context(), st, name, 1<<30)
		require.NoError(t, err)
		all[name] = string(b)
	}
	return all
}

// A store that fails at an object, each time, says nothing of it: a repair changes nothing there, calls nothing bad, takes
// nothing from elsewhere, and says what it could not look at. When the store answers again, all is well.
func TestRepairOfAStoreThatFails(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	kinds := []string{"data/", "meta/", "index/", "anchor/", "manifest/", "copy1/manifest/", "log/", "copy2/log/", "header", "slot/", "copy1/checkpoint/"}
	for i, prefix := range append(kinds, "data/", "meta/") {
		st := g.st.Clone()
		if i >= len(kinds) { // and nobody else can say what the pack holds
			for _, n := range names(t, st) {
				if strings.HasPrefix(n, "index/") {
					require.NoError(t, st.Remove(t.Context(), n))
				}
			}
		}
		var name string
		for _, n := range names(t, st) {
			if strings.HasPrefix(n, prefix) {
				name = n
				break
			}
		}
		if name == "" {
			continue
		}
		before := contentsOf(t, st)
		faulty := storetest.NewFaulty(st)
		r := reopen(t, faulty)
		faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: name, Sticky: true})
		rep, err := r.Repair(t.Context(), nil)
		require.NoError(t, err, name)
		require.False(t, rep.OK, name)
		require.NotEmpty(t, rep.Left, name)
		unread := false
		for _, d := range rep.Left {
			require.True(t, d.Unread, "%s: %+v", name, d)
			unread = unread || d.Object == name
		}
		require.True(t, unread, "%s: %+v", name, rep.Left)
		require.Empty(t, rep.Repaired, name)
		require.Empty(t, rep.Spent, name)
		require.Equal(t, before, contentsOf(t, st), name)
		faulty.Heal()
		g.requireWhole(t, st, name)
	}
}

// A failure that passes is no damage, and needs nobody.
func TestFailuresThatPass(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	for _, mode := range []storetest.Mode{storetest.Before, storetest.Middle} {
		for _, prefix := range []string{"data/", "meta/", "index/", "copy1/", "manifest/"} {
			st := g.st.Clone()
			faulty := storetest.NewFaulty(st)
			r := reopen(t, faulty)
			before := contentsOf(t, st)
			faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: prefix, Mode: mode}, storetest.Fault{Op: storetest.Read, Prefix: prefix, N: 7, Mode: mode})
			rep, err := r.Repair(t.Context(), nil)
			require.NoError(t, err, prefix)
			require.True(t, rep.OK, "%s: %+v", prefix, rep)
			require.Empty(t, rep.Found, prefix)
			require.Equal(t, before, contentsOf(t, st), prefix)
		}
	}
}

// A store that answers nothing stops a repair, which says so with a type.
func TestRepairOfAStoreThatIsGone(t *testing.T) {
	t.Parallel()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	for i := range 3 {
		mustBackup(t, r, "vm", disk(uint64(i)), nil)
	}
	before := contentsOf(t, st)
	faulty := storetest.NewFaulty(st)
	r = reopen(t, faulty)
	faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: "copy1/", Sticky: true}, storetest.Fault{Op: storetest.Read, Prefix: "copy2/", Sticky: true})
	_, err := r.Repair(t.Context(), nil)
	unread, ok := errors.AsType[*repo.ErrUnread](err)
	require.True(t, ok, "%v", err)
	require.NotEmpty(t, unread.Object)
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.Equal(t, before, contentsOf(t, st))
}

// flickering is a store whose reads of one object show other bytes each time, or for a while.
type flickering struct {
	store.Store
	name  string
	reads atomic.Int64
	until int64
}

func (f *flickering) Unwrap() store.Store { return f.Store }

func (f *flickering) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	n, err := f.Store.ReadAt(ctx, name, p, off)
	if k := f.reads.Load(); name == f.name && n > 0 && k < f.until {
		f.reads.Add(1)
		p[int(k)%n] ^= byte(k + 1)
	}
	return n, err
}

// Bytes that are wrong when they are read once are not damage yet; two readings have to agree.
func TestDamageIsReadTwice(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	for _, kind := range []string{"data/", "copy1/log/"} {
		for _, until := range []int64{1, 1 << 40} {
			st := g.st.Clone()
			before := contentsOf(t, st)
			f := &flickering{Store: st, until: 0}
			for name := range before {
				if strings.HasPrefix(name, kind) {
					f.name = name
				}
			}
			r := reopen(t, f)
			f.until = until
			rep, err := r.Repair(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, before, contentsOf(t, st))
			if until == 1 {
				require.True(t, rep.OK, "%+v", rep)
				continue
			}
			require.Len(t, rep.Left, 1)
			require.True(t, rep.Left[0].Unread)
			require.Equal(t, f.name, rep.Left[0].Object)
		}
	}
}

// The keyless look at a store knows the difference, too.
func TestScrubOfAStoreThatFails(t *testing.T) {
	t.Parallel()
	st := memstore.New(nil)
	mustBackup(t, newRepository(t, st, &repo.InitOptions{BlockSize: testBlock}), "vm", disk(1), nil)
	before := contentsOf(t, st)
	faulty := storetest.NewFaulty(st)
	p, err := repo.OpenPublic(t.Context(), faulty, nil)
	require.NoError(t, err)
	faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: "data/", Sticky: true}, storetest.Fault{Op: storetest.Read, Prefix: "meta/"})
	rep, err := p.Scrub(t.Context(), &repo.ScrubOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, rep.Damaged)
	for _, d := range rep.Damaged {
		require.True(t, d.Unread && strings.HasPrefix(d.Object, "data/"), "%+v", d)
	}
	require.Equal(t, before, contentsOf(t, st))
	faulty.Heal()
	faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: "data/", Err: fs.ErrNotExist, Sticky: true})
	rep, err = p.Scrub(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, rep.OK)
}
