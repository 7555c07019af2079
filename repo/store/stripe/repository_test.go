package stripe_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

var testKey = repo.KeyFile([32]byte{7})

// site is a repository over a set of folders and stores in memory.
type site struct {
	t     testing.TB
	root  string
	mems  map[int]*memstore.Store // the rest are folders
	state string
}

func newSite(t testing.TB) *site {
	return &site{t: t, root: t.TempDir(), state: t.TempDir(), mems: map[int]*memstore.Store{2: memstore.New(nil), 4: memstore.New(nil)}}
}

func (s *site) stores(without ...int) (list []store.Store) {
	for i := range 6 {
		if mem := s.mems[i]; mem != nil {
			list = append(list, kept{mem})
			continue
		}
		st, err := dirstore.Init(filepath.Join(s.root, labels(6)[i]))
		require.NoError(s.t, err)
		list = append(list, st)
	}
	for _, i := range without {
		require.NoError(s.t, list[i].Close())
		list[i] = nil
	}
	return list
}

func (s *site) open(opts *stripe.Options, without ...int) (*repo.Repository, *stripe.Store) {
	st, err := stripe.Open(s.t.Context(), s.stores(without...), opts)
	require.NoError(s.t, err)
	r, err := repo.Open(s.t.Context(), st, testKey, s.options())
	require.NoError(s.t, err)
	return r, st
}

func (s *site) options() *repo.OpenOptions {
	return &repo.OpenOptions{StateDir: s.state, Warn: func(string) {}}
}

func (s *site) close(r *repo.Repository, st *stripe.Store) {
	require.NoError(s.t, errors.Join(r.Close(), st.Close()))
}

func (s *site) backup(r *repo.Repository, img pipe.Image) string {
	ctx := s.t.Context()
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(s.t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(s.t, err)
	defer d.Close()
	_, err = pipe.Copy(ctx, d, img, nil)
	require.NoError(s.t, err)
	require.NoError(s.t, d.Commit(ctx))
	require.NoError(s.t, w.Blob(ctx, "config", strings.NewReader("vm")))
	id, err := w.Commit(ctx, nil)
	require.NoError(s.t, err)
	return id
}

func (s *site) same(r *repo.Repository, point string, want pipe.Image) {
	s.t.Helper()
	img, err := r.Open(s.t.Context(), point, "disk0")
	require.NoError(s.t, err)
	defer img.Close()
	require.True(s.t, bytes.Equal(all(s.t.Context(), s.t, img), all(s.t.Context(), s.t, want)))
}

func all(ctx context.Context, t testing.TB, img pipe.Image) []byte {
	p := make([]byte, img.Size())
	n, err := img.ReadAt(ctx, p, 0)
	if !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	require.Equal(t, len(p), n)
	return p
}

func pattern(seed uint64) pipe.Image { return pipetest.NewPattern(seed, 3<<20+777) }

// A whole repository over folders and stores in memory: any two members are lost, one is put back as it was, two are
// swapped, one is rebuilt elsewhere, the arbiter is lost and another one promoted. Every point stays, bit for bit.
func TestRepositoryOverASet(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t)
	st, err := stripe.Init(ctx, s.stores(), stripe.InitOptions{Data: 4, Parity: 2, Labels: labels(6)}, quickReads())
	require.NoError(t, err)
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: 64 << 10}, s.options())
	require.NoError(t, err)
	first, one := pattern(1), ""
	one = s.backup(r, first)
	s.close(r, st)
	earlier := s.mems[2].Clone()

	r, st = s.open(quickReads())
	second := pattern(2)
	two := s.backup(r, second)
	s.close(r, st)
	for _, lost := range [][]int{{0, 1}, {0, 2}, {3, 4}, {1, 5}} {
		r, st = s.open(quickReads(), lost...)
		s.same(r, one, first)
		s.same(r, two, second)
		s.close(r, st)
	}

	now := s.mems[2]
	s.mems[2] = earlier // put back as it had been, with member f lost besides
	r, st = s.open(quickReads(), 5)
	s.same(r, two, second)
	s.close(r, st)
	s.mems[2], s.mems[4] = s.mems[4], now // in each other's place
	r, st = s.open(quickReads(), 0)
	s.same(r, two, second)
	_, err = r.Begin(ctx, "vm", nil)
	require.ErrorIs(t, err, repo.ErrReadOnly, "it was found when the repository was opened")
	require.NoError(t, st.Promote(ctx, "b", nil))
	s.close(r, st)

	r, st = s.open(degradedReads(), 0)
	third := pattern(3)
	three := s.backup(r, third)
	s.close(r, st)
	st, err = stripe.Open(ctx, s.stores(), quickReads())
	require.NoError(t, err)
	_, err = st.Rebuild(ctx, "a", &stripe.RebuildOptions{Alone: true})
	require.NoError(t, err)
	report, err := st.Scrub(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, report.Damaged)
	require.NoError(t, st.Close())

	r, st = s.open(quickReads(), 1, 3)
	for point, want := range map[string]pipe.Image{one: first, two: second, three: third} {
		s.same(r, point, want)
	}
	found, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.Empty(t, found.Damaged)
	s.close(r, st)
}

func quickReads() *stripe.Options {
	o := quick()
	o.Striped, o.WriteDeadline, o.ListDeadline, o.ReadDeadline = nil, 0, 0, 0
	return o
}

func degradedReads() *stripe.Options {
	o := quickReads()
	o.Degraded = true
	return o
}

// A repository of which three members go while it is restored from: an error soon, and of the right kind.
func TestRepositoryLosesTooMuch(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	dir := t.TempDir()
	st := l.open(quickReads())
	s := &site{t: t, state: dir}
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: 64 << 10}, s.options())
	require.NoError(t, err)
	point := s.backup(r, pattern(1))
	require.NoError(t, r.Close())

	faulty, faults := l.faulty()
	st = l.over(quickReads(), faulty)
	r, err = repo.Open(ctx, st, testKey, s.options())
	require.NoError(t, err)
	img, err := r.Open(ctx, point, "disk0")
	require.NoError(t, err)
	for _, i := range []int{1, 2, 3} {
		faults[i].Add(storetest.Fault{Sticky: true})
	}
	_, err = img.ReadAt(ctx, make([]byte, img.Size()), 0)
	require.ErrorIs(t, err, stripe.ErrTooFew)
	_ = img.Close()
	_ = r.Close()
}
