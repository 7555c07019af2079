package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// shortLog is a client of a repository whose checkpoints lie eight records apart.
func shortLog(t testing.TB, st store.Store, opts *OpenOptions) *Repository {
	t.Helper()
	r := newClosed(st, opts)
	r.every = 8
	require.NoError(t, r.unlock(t.Context(), KeyFile([32]byte{1})))
	r, err := r.start(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func initShort(t testing.TB, st store.Store, opts *OpenOptions) *Repository {
	t.Helper()
	r, err := Init(t.Context(), st, KeyFile([32]byte{1}), &InitOptions{BlockSize: minBlockSize}, nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return shortLog(t, st, opts)
}

// emptyPoint commits a point without disks: three records.
func emptyPoint(t testing.TB, r *Repository, vm string) string {
	t.Helper()
	w, err := r.Begin(t.Context(), vm, nil)
	require.NoError(t, err)
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	return id
}

func listed(t testing.TB, r *Repository) (ids []string) {
	t.Helper()
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

func logNames(t testing.TB, st store.Store) (names []string) {
	t.Helper()
	for info, err := range st.List(t.Context(), "log/") {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	return names
}

// The state that a client takes from a checkpoint is the one that it would have from all records; those that the checkpoint stands for are gone.
func TestCheckpointIsTheState(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	var ids []string
	for i := range 12 {
		ids = append(ids, emptyPoint(t, r, fmt.Sprintf("vm%d", i%3)))
	}
	require.NoError(t, r.Hold(ctx, ids[4:5], "audit"))
	require.NoError(t, r.Forget(ctx, []string{ids[1], ids[7]}, "too old"))
	_, err := r.EnrolWriter(ctx, []string{"vm1"})
	require.NoError(t, err)
	_, err = r.AddSlot(ctx, KeyFile(NewKey()), "second")
	require.NoError(t, err)
	for range 4 {
		ids = append(ids, emptyPoint(t, r, "vm9"))
	}
	before := len(logNames(t, st))
	whole := listed(t, r)
	wantN, wantLast := r.log.head()
	require.NoError(t, r.Condense(ctx))
	left := logNames(t, st)
	require.Less(t, len(left), before)
	require.LessOrEqual(t, len(left), 16)
	require.NoError(t, r.Condense(ctx), "again")

	fresh := shortLog(t, st, nil)
	n, last := fresh.log.head()
	require.Equal(t, wantN, n)
	require.Equal(t, wantLast, last)
	require.Equal(t, whole, listed(t, fresh))
	require.Equal(t, r.log.keys, fresh.log.keys)
	require.Equal(t, r.log.held, fresh.log.held)
	require.Equal(t, r.log.slots, fresh.log.slots)
	require.Equal(t, r.log.points, fresh.log.points)
	slots, err := fresh.Slots(ctx)
	require.NoError(t, err)
	require.Len(t, slots, 2)

	next := emptyPoint(t, fresh, "vm1")
	require.Equal(t, append(whole, next), listed(t, r))
	rep, err := fresh.Verify(ctx, nil)
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep.Damaged)

	var kinds []string
	for e, err := range fresh.Audit(ctx) {
		require.NoError(t, err)
		require.True(t, e.Counts)
		if e.Kind != "key" {
			kinds = append(kinds, e.Kind+" "+e.Note)
		}
	}
	require.Equal(t, []string{"hold audit", "forget too old", "slots ", "slots second"}, kinds)
}

// halting stops one exclusive creation until it is let go, as a machine that was suspended does.
type halting struct {
	store.Store
	at      string
	reached chan struct{}
	goOn    chan struct{}
}

func (h *halting) Create(ctx context.Context, name string, data []byte) error {
	if name == h.at {
		close(h.reached)
		<-h.goOn
	}
	return h.Store.Create(ctx, name, data)
}

func (h *halting) Unwrap() store.Store { return h.Store }

// A writer is stopped between reading record n and creating n+1; meanwhile the log goes on and is truncated beyond. Its creation succeeds, for
// the name is free, and counts for nothing: it is told so, and nobody ever sees its point.
func TestWriterStoppedWhileTheLogIsTruncatedBeyond(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	first := emptyPoint(t, r, "vm")
	stopped := &halting{Store: st, reached: make(chan struct{}), goOn: make(chan struct{})}
	slow := shortLog(t, stopped, nil)
	w, err := slow.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	n2, _ := slow.log.head()
	stopped.at = logName(n2 + 1)
	result := make(chan error, 1)
	go func() {
		_, err := w.Commit(context.WithoutCancel(ctx), nil)
		result <- err
	}()
	<-stopped.reached
	key, err := r.signingKey(ctx)
	require.NoError(t, err)
	_, err = r.log.append(ctx, key, func() (*record, error) { return &record{Kind: recordRevoke, Lease: w.(*pointWriter).s.lease.n}, nil })
	require.NoError(t, err)
	want := []string{first}
	for range 10 {
		want = append(want, emptyPoint(t, r, "vm"))
	}
	require.NoError(t, r.Condense(ctx))
	_, err = st.Stat(ctx, logName(n2+1))
	require.ErrorIs(t, err, fs.ErrNotExist, "the number is free again")
	close(stopped.goOn)
	require.ErrorIs(t, <-result, ErrRevoked)
	_ = w.Close()
	for _, c := range []*Repository{r, slow, shortLog(t, st, nil)} {
		require.Equal(t, want, listed(t, c))
	}
	require.NoError(t, r.Condense(ctx))
	_, err = st.Stat(ctx, logName(n2+1))
	require.ErrorIs(t, err, fs.ErrNotExist, "what was void is removed")
}

// A client that was open all the while goes on from the checkpoint: it neither takes the gap for the end nor writes into it.
func TestOpenClientIsOvertaken(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	old := shortLog(t, st, nil)
	want := []string{emptyPoint(t, old, "vm")}
	for range 12 {
		want = append(want, emptyPoint(t, r, "vm"))
	}
	require.NoError(t, r.Condense(ctx))
	require.Equal(t, want, listed(t, old))
	want = append(want, emptyPoint(t, old, "vm"))
	require.Equal(t, want, listed(t, r))
}

// Whatever call fails while checkpoints are made and records removed, nothing that counts is lost, and the next call finishes it.
func TestCondenseBreaksOff(t *testing.T) {
	ctx := t.Context()
	origin := memstore.New(nil)
	r := initShort(t, origin, nil)
	for range 12 {
		emptyPoint(t, r, "vm")
	}
	want := listed(t, r)
	step := 1
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		step = 11
	}
	for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
		fired := true
		for n := 1 + rand.IntN(step); fired; n += step {
			st := origin.Clone()
			faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Any, N: n, Mode: mode})
			c := newClosed(faulty, nil)
			c.every = 8
			err := c.unlock(ctx, KeyFile([32]byte{1}))
			if err == nil {
				if c, err = c.start(ctx); err == nil {
					_ = c.Condense(ctx)
					_ = c.Close()
				}
			}
			fired = faulty.Fired() > 0
			after := shortLog(t, st, nil)
			require.Equal(t, want, listed(t, after), "call %d", n)
			require.NoError(t, after.Condense(ctx))
			require.Equal(t, append(want[:len(want):len(want)], emptyPoint(t, after, "vm")), listed(t, shortLog(t, st, nil)))
			if !fired {
				require.Greater(t, n, 30)
			}
		}
	}
}

// A checkpoint that is damaged or missing in one or two places is read from the third; without any, the gap is damage and not an end, and nothing is
// written over it. One that somebody else signed is none.
func TestCheckpointDamaged(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	for range 12 {
		emptyPoint(t, r, "vm")
	}
	want := listed(t, r)
	require.NoError(t, r.Condense(ctx))
	k := r.lastCheckpoint(ctx)
	name := checkpointName(k)
	require.NoError(t, st.Remove(ctx, name))
	require.Equal(t, want, listed(t, shortLog(t, st, nil)))
	rep, err := r.Verify(ctx, &VerifyOptions{Repair: true})
	require.NoError(t, err)
	require.Contains(t, rep.Repaired, name)
	forged, err := encodeJSON(&checkpointDocument{K: k + 1, N: (k+2)*8 - 1})
	require.NoError(t, err)
	_, file, err := r.sealClear(kindCheckpoint, sign(keyFromSeed(make([]byte, 32)), signCheckpoint, r.header.ID, forged))
	require.NoError(t, err)
	require.NoError(t, r.vital.create(ctx, checkpointName(k+1), file))
	require.Equal(t, want, listed(t, shortLog(t, st, nil)))
	for _, place := range copiesOf(checkpointName(k + 1)) {
		require.NoError(t, st.Remove(ctx, place))
	}
	for i := range k {
		for _, place := range copiesOf(checkpointName(i + 1)) {
			require.NoError(t, st.Remove(ctx, place))
		}
	}
	blind := shortLog(t, st, nil)
	require.Error(t, blind.log.damage())
	_, err = blind.Begin(ctx, "vm", nil)
	var corrupt *ErrCorrupt
	require.ErrorAs(t, err, &corrupt)
}

// A machine that has seen a record which is gone by now is told that its history is unproven, not that it was rolled back; one
// that has seen a newer one finds out.
func TestMarkBelowACheckpoint(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	state := t.TempDir()
	r := initShort(t, st, nil)
	emptyPoint(t, r, "vm")
	seen := shortLog(t, st, &OpenOptions{StateDir: state})
	require.Len(t, listed(t, seen), 1)
	for range 16 {
		emptyPoint(t, r, "vm")
	}
	require.NoError(t, r.Condense(ctx))
	var said []string
	again := shortLog(t, st, &OpenOptions{StateDir: state, Warn: func(s string) { said = append(said, s) }})
	require.Len(t, listed(t, again), 17)
	require.Contains(t, strings.Join(said, "\n"), "unproven")
	require.False(t, again.client.proven())
	emptyPoint(t, again, "vm")
	old := st.Clone()
	for range 2 {
		emptyPoint(t, again, "vm")
	}
	back := shortLog(t, old, &OpenOptions{StateDir: state})
	_, err := back.Begin(ctx, "vm", nil)
	var rollback *ErrRollback
	require.True(t, errors.As(err, &rollback))
}

// The first place of each checkpoint is lost. A client that has been open since before the records went finds them by their copies.
func TestCheckpointWhoseFirstPlaceIsLost(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	emptyPoint(t, r, "vm")
	live := shortLog(t, st, nil)
	for i := range 20 {
		emptyPoint(t, r, fmt.Sprint("vm", i))
	}
	require.NoError(t, r.Condense(ctx))
	for info := range st.List(ctx, "checkpoint/") {
		st.Set(info.Name, nil)
	}
	require.Equal(t, listed(t, shortLog(t, st, nil)), listed(t, live))
	emptyPoint(t, live, "vm")
}

// The lease of a prune that was ended is in a checkpoint as a writer's is: it writes packs, and never commits.
func TestCheckpointKeepsTheLeasesOfPrunes(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	zombie := shortLog(t, st, nil)
	l, err := zombie.newLease(ctx, accessPrune, nil)
	require.NoError(t, err)
	revoke(t, r, l.n)
	for i := range 20 {
		emptyPoint(t, r, fmt.Sprint("vm", i))
	}
	require.NoError(t, r.Condense(ctx))
	fresh := shortLog(t, st, nil)
	require.Positive(t, fresh.log.from)
	fresh.log.view(func(state *ledger) { require.Contains(t, state.unsettled(), l.n) })
	require.ErrorIs(t, l.end(ctx), ErrRevoked)
}
