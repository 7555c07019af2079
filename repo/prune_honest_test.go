package repo

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// A prune that says it is done is done, whatever call of the store failed on the way: another one finds nothing to do. One whose store
// failed for good says so (laws 1, 4).
func TestPruneThatSaysItIsDone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	whole := memstore.New(nil)
	img := noiseDisk(seq(1, 20)...)
	r, point, dead := twice(t, whole, img) // content in two places
	require.NoError(t, dead.Close())
	gone := mustPoint(t, r, "other", noiseDisk(seq(30, 50)...))
	kept := mustPoint(t, r, "other", noiseDisk(seq(30, 36)...))
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	require.NoError(t, r.Close())
	opts := &PruneOptions{Wait: -1, MaxUnused: 0.1}
	step := figureOf(4, 2, 1)
	for _, f := range []storetest.Fault{
		{Op: storetest.Any}, {Op: storetest.Any, Sticky: true}, {Op: storetest.Create}, {Op: storetest.Remove}, {Op: storetest.Remove, Sticky: true},
		{Op: storetest.Read}, {Op: storetest.List},
	} {
		said, failed := 0, 0
		for f.N = 1 + rand.IntN(step); ; f.N += step {
			st := whole.Clone()
			faulty := storetest.NewFaulty(st)
			r, err := Open(ctx, faulty, innerKey, onState(t.TempDir()))
			require.NoError(t, err)
			faulty.Add(f)
			_, err = r.Prune(ctx, opts)
			fired := faulty.Fired() > 0
			faulty.Heal()
			require.NoError(t, r.Close())
			if !fired {
				require.NoError(t, err)
			}
			if err != nil {
				failed++
			} else {
				said++
				before := content(t, st)
				other := openInner(t, st, nil)
				other.log.view(func(l *ledger) { require.Empty(t, l.tombs, "%+v", f) })
				endAll(t, other) // its lease, where it was told that it could not be ended
				rep := mustPrune(t, other, opts)
				require.Zero(t, rep.Repacked, "%+v", f)
				require.Equal(t, before, content(t, st), "%+v", f)
			}
			other := openInner(t, st, nil)
			requireDisk(t, other, point, img)
			requireDisk(t, other, kept, noiseDisk(seq(30, 36)...))
			require.NoError(t, other.Close())
			if !fired {
				break
			}
		}
		require.Positive(t, said)
		require.Positive(t, failed, "%+v", f)
	}
}

// content are the names of packs and manifests.
func content(t *testing.T, st *memstore.Store) (out []string) {
	for _, name := range namesUnder(t, st, "") {
		if strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "meta/") || strings.Contains(name, "manifest/") {
			out = append(out, name)
		}
	}
	return out
}
