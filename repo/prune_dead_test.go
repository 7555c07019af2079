package repo

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store/memstore"
)

// RELIABILITY bar 8: what a killed session has left, and what it kept from going, goes with the next prune and not with the one
// after that, also where there is nothing else to remove.
func TestPruneAfterAKilledSession(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, r *Repository){
		"packs that it wrote": leaveOrphans,
		"a forgotten point that it built on": func(t *testing.T, r *Repository) {
			base := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
			w, err := r.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
			require.NoError(t, err)
			killed(w)
			forget(t, r, base)
		},
		"a forgotten point that it built on, and packs that nobody needs": func(t *testing.T, r *Repository) {
			other := mustPoint(t, r, "vm", noiseDisk(seq(100, 120)...))
			base := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
			w, err := r.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
			require.NoError(t, err)
			killed(w)
			forget(t, r, base, other)
		},
		"a forgotten point, of which packs are needed in part": func(t *testing.T, r *Repository) {
			old := mustPoint(t, r, "vm", noiseDisk(seq(1, 40)...))
			base := mustPoint(t, r, "vm", noiseDisk(slices.Concat(seq(1, 3), seq(13, 15), seq(25, 27))...))
			w, err := r.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
			require.NoError(t, err)
			killed(w)
			forget(t, r, base, old)
		},
		"packs, and others that nobody needs": func(t *testing.T, r *Repository) {
			other := mustPoint(t, r, "vm", noiseDisk(seq(100, 120)...))
			leaveOrphans(t, r)
			forget(t, r, other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				st := memstore.New(nil)
				smallPacks(t, st)
				leave(t, openInner(t, st, nil))
				require.Positive(t, countOf(t, st, "data/"))
				began := time.Now()
				rep := mustPrune(t, openInner(t, st, nil), &PruneOptions{MaxUnused: 1e-9})
				require.Less(t, time.Since(began), deadAfter+3*pollEvery)
				require.Zero(t, rep.Deferred)
				require.Zero(t, countOf(t, st, "data/")+countOf(t, st, "meta/"))
			})
		})
	}
}

// leaveOrphans leaves packs that no point needs.
func leaveOrphans(t *testing.T, r *Repository) {
	t.Helper()
	w, err := r.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	putNoise(t, w)
	killed(w)
}

// putNoise stores twenty blocks, of which twelve and more are durable.
func putNoise(t *testing.T, w pipe.PointWriter) pipe.BlockTarget {
	t.Helper()
	d := startDisk(t, w, 20)
	content, ids := noiseBlocks(3, 20, d)
	for i := range content {
		_, err := d.PutBlock(t.Context(), int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, content[i])
		require.NoError(t, err)
	}
	for w.(pipe.Durable).Durable() < 12 {
		time.Sleep(time.Millisecond)
	}
	return d
}

// killed ends a session as the death of its process would: no heartbeat, no end.
func killed(w pipe.PointWriter) {
	l := w.(*pointWriter).s.lease
	l.cancel()
	<-l.done
}

// A prune beside a session that lives does not wait for its end, though it has packs that no point needs yet.
func TestPruneBesideALivingSession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := memstore.New(nil)
		smallPacks(t, st)
		w, err := openInner(t, st, nil).Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		d := putNoise(t, w)
		began := time.Now()
		mustPrune(t, openInner(t, st, nil), &PruneOptions{})
		require.Less(t, time.Since(began), beatEvery+2*pollEvery)
		require.NoError(t, d.(pipe.Target).Commit(t.Context()))
		_, err = w.Commit(t.Context(), nil)
		require.NoError(t, err)
		requireSound(t, openInner(t, st, nil))
	})
}
