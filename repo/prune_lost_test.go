package repo

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// A point needs what no pack has: a prune removes nothing and says what is lost, unless it is told to go on; then what is there stays, and
// what nobody needs goes.
func TestPruneWhereContentIsLost(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	gone := mustPoint(t, r, "c", noiseDisk(seq(101, 140)...))
	ofGone := namesUnder(t, st, "data/")
	mustPoint(t, r, "a", noiseDisk(seq(1, 40)...))
	ofA := without(namesUnder(t, st, "data/"), ofGone)
	whole := mustPoint(t, r, "b", noiseDisk(seq(51, 60)...))
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	require.NoError(t, r.Close())
	require.NoError(t, st.Remove(ctx, ofA[0]))

	before := content(t, st)
	var corrupt *ErrCorrupt
	for _, o := range []*PruneOptions{{Wait: -1}, {DryRun: true}} {
		other := openInner(t, st, nil)
		_, err := other.Prune(ctx, o)
		require.ErrorAs(t, err, &corrupt)
		require.NoError(t, other.Close())
		require.Equal(t, before, content(t, st))
	}
	other := openInner(t, st, nil)
	endAll(t, other)
	rep := mustPrune(t, other, &PruneOptions{Wait: -1, Lost: true})
	require.Positive(t, rep.Freed)
	after := content(t, st)
	for _, name := range ofA[1:] {
		require.Contains(t, after, name, "what is left of the point")
	}
	for _, name := range ofGone {
		require.NotContains(t, after, name)
	}
	requireDisk(t, other, whole, noiseDisk(seq(51, 60)...))
}

// without is what is in all and not in some.
func without(all, some []string) (out []string) {
	for _, s := range all {
		if !slices.Contains(some, s) {
			out = append(out, s)
		}
	}
	return out
}

// A pack of which nothing can be read any more goes with a prune, beside packs that are written anew; a prune that goes on although content is
// lost lets it stay and names it: something of it may still be had by who knows more.
func TestPruneOfRuinedPacks(t *testing.T) {
	ctx := t.Context()
	for _, lost := range []bool{false, true} {
		st := memstore.New(nil)
		r := smallPacks(t, st)
		gone := mustPoint(t, r, "c", noiseDisk(seq(101, 140)...))
		of := namesUnder(t, st, "data/")
		all := seq(1, 61)
		sparse := make([]uint64, len(all))
		for i := 0; i < len(all); i += 3 {
			sparse[i] = all[i]
		}
		old := mustPoint(t, r, "a", noiseDisk(all...))
		kept := mustPoint(t, r, "a", noiseDisk(sparse...))
		require.NoError(t, r.Forget(ctx, []string{gone, old}, ""))
		require.NoError(t, r.Close())
		info, err := st.Stat(ctx, of[0])
		require.NoError(t, err)
		st.Set(of[0], make([]byte, info.Size))
		for _, name := range namesUnder(t, st, "index/") {
			require.NoError(t, st.Remove(ctx, name))
		}
		steps := map[string]PruneProgress{}
		other := openInner(t, st, nil)
		rep := mustPrune(t, other, &PruneOptions{Wait: -1, Lost: lost, Progress: func(p PruneProgress) {
			require.LessOrEqual(t, p.Done, p.Total)
			steps[p.Step] = p
		}})
		require.Positive(t, rep.Repacked)
		if lost {
			require.Equal(t, []string{of[0]}, rep.Unreadable)
			require.Contains(t, namesUnder(t, st, "data/"), of[0])
		} else {
			require.Empty(t, rep.Unreadable)
			require.NotContains(t, namesUnder(t, st, "data/"), of[0])
		}
		require.Len(t, steps, 3)
		for _, step := range []string{"repack", "sweep"} {
			require.Positive(t, steps[step].Total, step)
			require.Equal(t, steps[step].Total, steps[step].Done, step)
		}
		require.Positive(t, steps["mark"].Total)
		requireDisk(t, other, kept, noiseDisk(sparse...))
		require.Equal(t, len(namesUnder(t, st, "data/"))+len(namesUnder(t, st, "meta/")), rep.Kept+len(rep.Unreadable), "what the report says stays, stays")
	}
}

// A log with records of a kind that this version does not know may say anything of what is needed: nothing is decided on it, not even for a
// look.
func TestPruneOfALogThatSaysMore(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	gone := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	mustPoint(t, r, "vm", noiseDisk(seq(31, 40)...))
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	key, err := r.signingKey(ctx)
	require.NoError(t, err)
	says(t, r, key, record{Kind: "pledge"})
	before := namesUnder(t, st, "")
	other := openInner(t, st, nil)
	for _, o := range []*PruneOptions{{DryRun: true}, {Wait: -1}, {Wait: -1, Lost: true}} {
		_, err = other.Prune(ctx, o)
		require.ErrorAs(t, err, new(*ErrUnsupported))
	}
	require.Equal(t, before, namesUnder(t, st, ""))
}
