package stripe_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// Whoever only reads a point makes nobody fall behind: while a member is away that has missed nothing, no lease is written, and a warning
// says so. Once a backup has left that member behind, a lease costs nothing more and is taken again.
func TestReadingLeavesNobodyBehind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	var told []string
	s := &site{t: t, state: t.TempDir()}
	opts := &repo.OpenOptions{StateDir: s.state, Warn: func(w string) { told = append(told, w) }}
	without := func(away ...int) []store.Store {
		list := l.stores()
		for _, i := range away {
			list[i] = nil
		}
		return list
	}
	st := l.open(quickReads())
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: 64 << 10}, s.options())
	require.NoError(t, err)
	point := s.backup(r, pattern(1))
	before := st.State()
	require.NoError(t, r.Close())

	read := func(list []store.Store, dies func()) stripe.State {
		told = nil
		st := l.over(degradedReads(), list)
		r, err := repo.Open(ctx, st, testKey, opts)
		require.NoError(t, err)
		dies()
		s.same(r, point, pattern(1))
		require.NoError(t, r.Close())
		return st.State()
	}
	require.Equal(t, before, read(without(1, 3), func() {}))
	require.Contains(t, strings.Join(told, "\n"), "without a lease")
	require.Contains(t, strings.Join(told, "\n"), "b, d")

	faulty, faults := l.faulty()
	require.Equal(t, before, read(faulty, func() { faults[4].Add(storetest.Fault{Sticky: true}) }), "a member that goes after the set was opened")
	require.Contains(t, strings.Join(told, "\n"), "without a lease")

	st = l.over(degradedReads(), without(1))
	r, err = repo.Open(ctx, st, testKey, s.options())
	require.NoError(t, err)
	s.backup(r, pattern(2))
	require.NoError(t, r.Close())
	behind := st.State()
	require.Equal(t, stripe.Behind, behind.Members[1].Standing, "a backup cannot do without")
	require.Equal(t, behind, read(without(1), func() {}))
	require.NotContains(t, strings.Join(told, "\n"), "without a lease")
}
