package repo

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// The schedules of LOCKING.md, each with its name.

func forget(t testing.TB, r *Repository, points ...string) {
	t.Helper()
	require.NoError(t, r.Forget(t.Context(), points, ""))
}

func revoke(t testing.TB, r *Repository, lease uint64) {
	t.Helper()
	key, err := r.signingKey(t.Context())
	require.NoError(t, err)
	_, err = r.log.append(t.Context(), key, func() (*record, error) { return &record{Kind: recordRevoke, Lease: lease}, nil })
	require.NoError(t, err)
}

// A writer finds content in a pack that nobody needs and relies on it; the pack is named in a tombstone; the writer commits; the
// pruner sweeps. The pack is taken back (hazards H01, H02; RELIABILITY 3, schedule a).
func TestCheckTombstoneCommitSweep(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	img := noiseDisk(seq(1, 20)...)
	forget(t, r, mustPoint(t, r, "vm", img))
	writer, pruner := openInner(t, st, nil), openInner(t, st, nil)
	w, err := writer.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	packs := countOf(t, st, "data/")
	d, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(ctx, d, img, nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	require.Zero(t, w.(pipe.Accountant).Usage().Parity, "the writer relies on what is there")
	rep := mustPrune(t, pruner, nil)
	require.Zero(t, countOf(t, st, "data/")-packs, "a session that is older than the tombstone is open")
	require.Positive(t, rep.Deferred)
	require.Equal(t, w.(*pointWriter).s.lease.n, rep.Waits[0].Lease)
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	rep = mustPrune(t, pruner, nil)
	require.Positive(t, rep.Rescued)
	require.Zero(t, rep.Deferred)
	after := openInner(t, st, nil)
	requireDisk(t, after, id, img)
	requireSound(t, after)
}

// The same, and the writer gives up: what waited for it goes.
func TestTombstoneWaitsForAnOpenSession(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
	w, err := openInner(t, st, nil).Begin(ctx, "vm", nil)
	require.NoError(t, err)
	require.Positive(t, mustPrune(t, r, nil).Deferred)
	require.NoError(t, w.Close())
	rep := mustPrune(t, r, nil)
	require.Zero(t, rep.Deferred)
	require.Positive(t, rep.Freed)
	require.Zero(t, countOf(t, st, "data/"))
}

// A session that begins after a tombstone has read it: it stores the content again, whatever its index says, and the sweep does
// not wait for it (a writer on an old index).
func TestWriterOnAnOldIndex(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	img := noiseDisk(seq(1, 20)...)
	a := mustPoint(t, r, "vm", img)
	old := openInner(t, st, nil)
	_, err := old.index(ctx, scope{}) // it knows all packs from here on
	require.NoError(t, err)
	blocker, err := r.Begin(ctx, "other", nil)
	require.NoError(t, err)
	forget(t, r, a)
	require.Positive(t, mustPrune(t, r, nil).Deferred) // tombstones, and no sweep
	w, err := old.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, blocker.Close())
	require.Zero(t, mustPrune(t, r, nil).Deferred, "the session is younger than the tombstone")
	require.Zero(t, countOf(t, st, "data/"))
	id, err := writePoint(ctx, w, "vm", img)
	require.NoError(t, err)
	requireDisk(t, openInner(t, st, nil), id, img)
	requireSound(t, openInner(t, st, nil))
}

// A writer that was taken for dead wakes up: its heartbeat comes into being again, its packs too, and it commits. Nothing of it
// counts, and the next prune removes all of it (RELIABILITY 3, schedule b; hazard H46).
func TestRevokedWriterWakesUp(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	kept := mustPoint(t, r, "vm", noiseDisk(seq(50, 60)...))
	w, err := openInner(t, st, nil).Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	n := w.(*pointWriter).s.lease.n
	revoke(t, r, n)
	mustPrune(t, r, nil)
	require.NoError(t, r.createBeat(ctx, n, 7))
	_, err = writePoint(ctx, w, "vm", noiseDisk(seq(1, 20)...))
	require.ErrorIs(t, err, ErrRevoked)
	require.NoError(t, r.createBeat(ctx, n, 8))
	mustPrune(t, r, nil)
	require.Zero(t, countOf(t, st, "beat/"))
	require.Equal(t, []string{kept}, idsOf(t, r))
	require.Zero(t, requireSound(t, openInner(t, st, nil)).Reclaimable)
}

func idsOf(t testing.TB, r *Repository) (ids []string) {
	t.Helper()
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

// gate stops the first call that fits until it is opened.
type gate struct {
	store.Store
	fits   func(op, name string) bool
	once   sync.Once
	met    chan struct{}
	opened chan struct{}
}

func newGate(st store.Store, fits func(op, name string) bool) *gate {
	return &gate{Store: st, fits: fits, met: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) Unwrap() store.Store { return g.Store }

func (g *gate) pass(op, name string) {
	if g.fits(op, name) {
		g.once.Do(func() {
			close(g.met)
			<-g.opened
		})
	}
}

func (g *gate) Create(ctx context.Context, name string, data []byte) error {
	g.pass("create", name)
	return g.Store.Create(ctx, name, data)
}

func (g *gate) Remove(ctx context.Context, name string) error {
	g.pass("remove", name)
	return g.Store.Remove(ctx, name)
}

// A pruner is stopped right before it removes a pack, or right before it says that it will; another one ends its lease, takes
// back or sweeps; writers store the same content again. The first wakes up and does what it was about to: nothing is lost.
func TestZombiePruner(t *testing.T) {
	ctx := t.Context()
	for name, fits := range map[string]func(op, name string) bool{
		"before it removes":         func(op, name string) bool { return op == "remove" && strings.HasPrefix(name, "data/") },
		"before it removes a point": func(op, name string) bool { return op == "remove" && strings.HasPrefix(name, "copy1/manifest/") },
		"before its tombstone":      nthRecord(2),
		"before its sweep record":   nthRecord(3),
		"before its swept record":   nthRecord(4),
	} {
		t.Run(name, func(t *testing.T) {
			st := memstore.New(nil)
			r := smallPacks(t, st)
			img := noiseDisk(seq(1, 20)...)
			kept := mustPoint(t, r, "kept", noiseDisk(seq(30, 40)...))
			forget(t, r, mustPoint(t, r, "vm", img))
			g := newGate(st, fits)
			zombie := openInner(t, g, nil)
			ended := make(chan error, 1)
			go func() {
				_, err := zombie.Prune(ctx, &PruneOptions{Wait: -1})
				ended <- err
			}()
			<-g.met
			revoke(t, r, r.mustPruner(t))
			first := mustPoint(t, r, "vm", img)
			mustPrune(t, r, nil)
			second := mustPoint(t, openInner(t, st, nil), "vm", img)
			close(g.opened)
			require.ErrorIs(t, <-ended, ErrRevoked)
			mustPrune(t, r, nil)
			after := openInner(t, st, nil)
			for _, id := range []string{first, second} {
				requireDisk(t, after, id, img)
			}
			requireDisk(t, after, kept, noiseDisk(seq(30, 40)...))
			require.Zero(t, requireSound(t, after).Reclaimable)
		})
	}
}

func (r *Repository) mustPruner(t testing.TB) (n uint64) {
	t.Helper()
	require.NoError(t, r.log.refresh(t.Context()))
	r.log.view(func(l *ledger) { n = l.pruner() })
	require.NotZero(t, n)
	return n
}

// nthRecord fits the creation of the n-th log record of a client whose key is enrolled by the first: its lease is the second.
func nthRecord(n int) func(op, name string) bool {
	var mu sync.Mutex
	seen := -1 // the enrolment
	return func(op, name string) bool {
		mu.Lock()
		defer mu.Unlock()
		if op != "create" || !strings.HasPrefix(name, "log/") {
			return false
		}
		seen++
		return seen == n
	}
}

// Of two prunes one goes, and the other says who is at it. One that died is found out and ended, and what it left is finished.
func TestTwoPruners(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st := memstore.New(nil)
		r := smallPacks(t, st)
		forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
		l, err := r.newLease(ctx, accessPrune, nil)
		require.NoError(t, err)
		other := openInner(t, st, nil)
		var busy *BusyError
		_, err = other.Prune(ctx, nil)
		require.ErrorAs(t, err, &busy)
		require.Equal(t, l.n, busy.Lease)
		_, err = r.Prune(ctx, nil)
		require.ErrorAs(t, err, &busy, "in the same process too")
		l.cancel() // killed
		<-l.done
		_, err = other.Prune(ctx, &PruneOptions{Wait: -1})
		require.ErrorAs(t, err, &busy, "nobody has looked whether it lives")
		_, err = other.Prune(ctx, nil)
		require.NoError(t, err)
		require.Zero(t, countOf(t, st, "data/"))
		require.Zero(t, countOf(t, st, "beat/"))
		require.ErrorIs(t, l.end(ctx), ErrRevoked)
	})
}

// A dead writer is found by its heartbeats and ended; one that lives is reported, and waited for no longer than that takes to
// see, or as long as was asked for.
func TestPruneTellsTheDeadFromTheLiving(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st := memstore.New(nil)
		r := smallPacks(t, st)
		forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
		dead, err := openInner(t, st, nil).Begin(ctx, "dead", nil)
		require.NoError(t, err)
		l := dead.(*pointWriter).s.lease
		l.cancel()
		<-l.done
		living, err := openInner(t, st, nil).Begin(ctx, "living", nil)
		require.NoError(t, err)
		pruner := openInner(t, st, nil)
		began := time.Now()
		rep, err := pruner.Prune(ctx, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), deadAfter+2*pollEvery)
		require.Len(t, rep.Waits, 1)
		require.Equal(t, living.(*pointWriter).s.lease.n, rep.Waits[0].Lease)
		require.Positive(t, rep.Deferred)
		_, err = dead.Commit(ctx, nil)
		require.ErrorIs(t, err, ErrRevoked)
		time.AfterFunc(3*time.Minute, func() { _ = living.Close() })
		rep, err = pruner.Prune(ctx, &PruneOptions{Wait: time.Hour})
		require.NoError(t, err)
		require.Zero(t, rep.Deferred)
		require.Less(t, time.Since(began), 10*time.Minute)
		require.Zero(t, countOf(t, st, "data/"))
		_ = dead.Close()
	})
}

// A restore is under way while its point is forgotten and what it reads is to go or is written anew elsewhere. It reads to its
// end; then the packs go.
func TestPruneDuringRestore(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	img := noiseDisk(seq(1, 40)...)
	id := mustPoint(t, r, "vm", img)
	open, err := openInner(t, st, nil).Open(ctx, id, "disk0")
	require.NoError(t, err)
	defer open.Close()
	forget(t, r, id)
	mustPrune(t, r, nil)
	diff, err := pipe.Compare(ctx, open, img, nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	require.NoError(t, open.Close())
	rep := mustPrune(t, r, nil)
	require.Positive(t, rep.Freed)
	require.Zero(t, countOf(t, st, "data/")+countOf(t, st, "manifest/"))
	_, err = r.Open(ctx, id, "disk0")
	require.ErrorContains(t, err, "not exist")
}

// A reader pins a point that is being forgotten: it comes too late, or the point's content stays until it has read.
func TestReaderPinsWhileForgotten(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	id := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	reader := openInner(t, st, nil)
	m, err := reader.find(ctx, id)
	require.NoError(t, err)
	forget(t, r, id) // between the reader's look and its lease
	_, _, err = reader.pin(ctx, m.Point)
	require.ErrorIs(t, err, ErrForgotten)
	mustPrune(t, r, nil)
	require.Zero(t, countOf(t, st, "data/"))
}

// A reader that found its packs before they were written anew, and took its lease after, looks again; so does one that reads
// without a lease, and where the point itself is gone it says so.
func TestReaderOnAnOldIndex(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	all, some := seq(1, 41), seq(1, 41)
	for i := range some {
		if i%2 == 0 {
			some[i] = 0
		}
	}
	a, b := mustPoint(t, r, "vm", noiseDisk(all...)), mustPoint(t, r, "vm", noiseDisk(some...))
	reader, unpinned := openInner(t, st, nil), openInner(t, st, &OpenOptions{ReadOnly: true})
	_, err := reader.index(ctx, scope{})
	require.NoError(t, err)
	open, err := unpinned.Open(ctx, b, "disk0")
	require.NoError(t, err)
	defer open.Close()
	forget(t, r, a)
	require.Positive(t, mustPrune(t, r, nil).Repacked)
	requireDisk(t, reader, b, noiseDisk(some...))
	diff, err := pipe.Compare(ctx, open, noiseDisk(some...), nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	forget(t, r, b)
	mustPrune(t, r, nil)
	time.Sleep(renewEvery)
	_, err = pipe.Compare(ctx, open, noiseDisk(some...), nil)
	require.ErrorIs(t, err, ErrForgotten)
}

// The first place of a prune's records is lost while their copies live: nobody else takes the number, and what they say counts.
func TestLostTombstoneWhoseCopiesLive(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
	blocker, err := r.Begin(ctx, "other", nil)
	require.NoError(t, err)
	mustPrune(t, r, nil)
	n := uint64(0)
	r.log.view(func(l *ledger) {
		for _, t := range l.tombs {
			n = max(n, t.n)
		}
	})
	require.NotZero(t, n)
	require.NoError(t, blocker.Close())
	for _, spoil := range []func(c *memstore.Store){
		func(c *memstore.Store) { c.Set(logName(n), nil) },
		func(c *memstore.Store) { c.Set(logName(n), make([]byte, 12<<10)) },
		func(c *memstore.Store) { c.Set("copy1/"+logName(n), nil); c.Set(logName(n), nil) },
	} {
		c := st.Clone()
		spoil(c)
		after := openInner(t, c, nil)
		id := mustPoint(t, after, "vm", noiseDisk(seq(1, 20)...))
		rep := mustPrune(t, after, nil)
		require.Zero(t, rep.Deferred)
		require.Positive(t, rep.Freed)
		requireDisk(t, openInner(t, c, nil), id, noiseDisk(seq(1, 20)...))
	}
	c := st.Clone() // lost in all three places: nothing is decided on half of a log
	for _, place := range copiesOf(logName(n)) {
		c.Set(place, nil)
	}
	after := openInner(t, c, nil)
	packs := countOf(t, c, "data/")
	_, err = after.Prune(ctx, nil)
	var corrupt *ErrCorrupt
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, packs, countOf(t, c, "data/"))
}

// The answer to the creation of each of a prune's records is lost: it is settled by reading, and nothing is done twice.
func TestLostAnswersOfAPrune(t *testing.T) {
	for n := 1; n <= 6; n++ {
		st := memstore.New(nil)
		r := smallPacks(t, st)
		forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
		faulty := storetest.NewFaulty(st)
		other := openInner(t, faulty, nil)
		faulty.Add(storetest.Fault{Op: storetest.Create, Prefix: "log/", N: n, Mode: storetest.After})
		rep := mustPrune(t, other, nil)
		require.Equal(t, 1, faulty.Fired())
		require.Positive(t, rep.Freed)
		require.Zero(t, countOf(t, st, "data/"))
	}
}

// What cannot be read stops the sweep, whichever it is: a listing that fails or ends too early, a manifest, a page, a table, a record of a
// kind that nobody knows (hazard H07).
func TestPruneStopsAtWhatItCannotRead(t *testing.T) {
	ctx := t.Context()
	origin := memstore.New(nil)
	r := smallPacks(t, origin)
	a := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	kept := mustPoint(t, r, "vm", noiseDisk(seq(30, 50)...))
	forget(t, r, a)
	untouched := func(t *testing.T, st *memstore.Store, before int) {
		require.Equal(t, before, countOf(t, st, "data/"))
	}
	for _, prefix := range []string{"data/", "meta/", "log/"} {
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After, storetest.Middle, storetest.Truncated, storetest.Empty} {
			if prefix == "log/" && mode >= storetest.Truncated {
				continue // no record that can be read is missed for that: they are read by name
			}
			st := origin.Clone()
			faulty := storetest.NewFaulty(st)
			c := openInner(t, faulty, nil)
			before := countOf(t, st, "data/")
			faulty.Add(storetest.Fault{Op: storetest.List, Prefix: prefix, Mode: mode, Sticky: true})
			_, err := c.Prune(ctx, &PruneOptions{Wait: -1})
			faulty.Heal()
			if mode != storetest.Truncated {
				require.Error(t, err, "%s mode %d", prefix, mode)
				untouched(t, st, before)
			}
			requireDisk(t, openInner(t, st, nil), kept, noiseDisk(seq(30, 50)...))
		}
	}
	for _, name := range []string{"manifest/", "meta/"} {
		st := origin.Clone()
		for info := range st.List(ctx, name) {
			for _, place := range copiesOf(info.Name) {
				if _, err := st.Stat(ctx, place); err == nil {
					st.Set(place, make([]byte, info.Size))
				}
			}
		}
		before := countOf(t, st, "data/")
		_, err := openInner(t, st, nil).Prune(ctx, &PruneOptions{Wait: -1})
		var corrupt *ErrCorrupt
		require.True(t, errors.As(err, &corrupt), "%s: %v", name, err)
		untouched(t, st, before)
	}
}
