package repo

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// pruneStory is a full backup, two increments, a forgotten point and a prune that removes and rewrites.
type pruneStory struct{ first, second, third []uint64 }

func newPruneStory() pruneStory {
	s := pruneStory{first: seq(1, 25), second: seq(1, 25), third: seq(1, 25)}
	for i := range 24 {
		if i%2 == 0 {
			s.second[i] = uint64(100 + i)
		}
		if i%4 == 0 {
			s.third[i] = uint64(200 + i)
		}
	}
	return s
}

// told are the points that were reported, and not forgotten since.
type told map[string][]uint64

func (s pruneStory) run(ctx context.Context, r *Repository, points told) error {
	first, err := keepPoint(ctx, r, "vm", noiseDisk(s.first...), "")
	if err != nil {
		return err
	}
	points[first] = s.first
	second, err := keepPoint(ctx, r, "vm", noiseDisk(s.second...), first)
	if err != nil {
		return err
	}
	points[second] = s.second
	third, err := keepPoint(ctx, r, "vm", noiseDisk(s.third...), second)
	if err != nil {
		return err
	}
	points[third] = s.third
	return s.shrink(ctx, r, points, first, second)
}

func (s pruneStory) shrink(ctx context.Context, r *Repository, points told, gone ...string) error {
	for _, id := range gone {
		delete(points, id)
	}
	if err := r.Forget(ctx, gone, ""); err != nil {
		return err
	}
	_, err := r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: 1})
	return err
}

// endAll ends what died, as a minute of silence would.
func endAll(t testing.TB, r *Repository) {
	t.Helper()
	var open []uint64
	r.log.view(func(l *ledger) { open = l.openBelow(l.n+1, 0) })
	for _, n := range open {
		revoke(t, r, n)
	}
}

// requireStory opens what a crash has left with another client: all that was reported restores, a full check finds nothing, the
// next prune needs no help and leaves no leak.
func requireStory(t testing.TB, st *memstore.Store, points told, what ...any) {
	t.Helper()
	after := openInner(t, st, nil)
	for id, blocks := range points {
		require.NoError(t, sameDisk(t.Context(), after, id, noiseDisk(blocks...)), what...)
	}
	rep, err := after.Verify(t.Context(), &VerifyOptions{DataPercent: 100, Repair: true})
	require.NoError(t, err, what...)
	require.True(t, rep.OK, "%v %+v", what, rep)
	endAll(t, after)
	pruned, err := after.Prune(t.Context(), &PruneOptions{Wait: -1, MaxUnused: 1})
	require.NoError(t, err, what...)
	require.Zero(t, pruned.Deferred, what...)
	rep = requireSound(t, openInner(t, st, nil))
	require.Zero(t, rep.Reclaimable, what...)
	require.Zero(t, countOf(t, st, "beat/"), what...)
	require.Equal(t, 3*len(idsOf(t, after)), countOf(t, st, "manifest/")+countOf(t, st, "copy1/manifest/")+countOf(t, st, "copy2/manifest/"), what...)
	for id, blocks := range points {
		require.NoError(t, sameDisk(t.Context(), after, id, noiseDisk(blocks...)), what...)
	}
	require.NoError(t, after.Close())
}

// RELIABILITY bars 2, 8: the store fails from its n-th change on for good (the process is dead), or fails the n-th call once, for every n
// of a full backup, two increments, a forgetting and a prune that removes and rewrites.
func TestPruneThatIsCutOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	story := newPruneStory()
	empty := memstore.New(nil)
	require.NoError(t, smallPacks(t, empty).Close())
	whole := empty.Clone() // up to the forgetting: what is new here comes after it
	r := openInner(t, whole, nil)
	base := told{}
	var gone []string
	for _, blocks := range [][]uint64{story.first, story.second, story.third} {
		base[mustPoint(t, r, "vm", noiseDisk(blocks...))] = blocks
	}
	gone = idsOf(t, r)[:2]
	require.NoError(t, r.Close())
	step, from := 41, 1+rand.IntN(41)
	if tier := tierOf(); tier == "long" || tier == "release" {
		step, from = 1, 1
	}
	for _, f := range []storetest.Fault{
		{Op: storetest.Create, Sticky: true}, {Op: storetest.Create, Mode: storetest.After, Sticky: true},
		{Op: storetest.Remove, Sticky: true}, {Op: storetest.Remove, Mode: storetest.After, Sticky: true}, {Op: storetest.Any}, {Op: storetest.Any, Sticky: true},
	} {
		for n := from; ; n += step {
			st, points := whole.Clone(), told{}
			for id, blocks := range base {
				points[id] = blocks
			}
			f.N = n
			faulty := storetest.NewFaulty(st, f)
			if r, err := Open(ctx, faulty, innerKey, nil); err == nil {
				_ = story.shrink(ctx, r, points, gone...)
				_ = r.Close()
			}
			requireStory(t, st, points, "%+v", f)
			if faulty.Fired() == 0 {
				break
			}
		}
	}
}

// The same from the first backup on; the whole of it in the long tiers.
func TestStoryThatIsCutOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	story := newPruneStory()
	empty := memstore.New(nil)
	require.NoError(t, smallPacks(t, empty).Close())
	step, from := 79, 1+rand.IntN(79)
	if tier := tierOf(); tier == "long" || tier == "release" {
		step, from = 1, 1
	}
	for n := from; ; n += step {
		st, points := empty.Clone(), told{}
		faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Any, N: n, Sticky: true})
		if r, err := Open(ctx, faulty, innerKey, nil); err == nil {
			_ = story.run(ctx, r, points)
			_ = r.Close()
		}
		requireStory(t, st, points, "call %d", n)
		if faulty.Fired() == 0 {
			break
		}
	}
}
