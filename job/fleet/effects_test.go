package fleet_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/queue"
)

// hostWith is a hypervisor as far as this test goes: what stands on it, by name.
type hostWith struct {
	mu    sync.Mutex
	there []string
}

func (h *hostWith) put(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.there = append(h.there, name)
}

func (h *hostWith) left() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.there)
}

func (h *hostWith) Undo(_ context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.there, e.Facts["name"]); i >= 0 {
		h.there = slices.Delete(h.there, i, i+1)
	}
	return nil
}

func snapshotEffect(name, repository string) hikae.Effect {
	return hikae.Effect{Kind: "test.snapshot", VM: "vm-1", Facts: map[string]string{"name": name}, Repository: repository}
}

// R204: worker A leaves a snapshot on a host when it is cut off; B, on another machine whose journal knows nothing of it, removes that before
// it begins, and nothing else: what A had removed itself, what a person made, and what only another repository can judge.
func TestNextWorkerUndoesWhatALostOneLeft(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	host := &hostWith{}
	host.put("a person's")
	a := &line{Queue: q}
	made, over := make(chan bool), make(chan bool)
	dir := t.TempDir()
	journalA, err := hikae.OpenFileJournal(dir)
	require.NoError(t, err)
	stopA := workBeside(t, a, func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		j := w.Journal(journalA)
		require.Equal(t, journalA.Session(), j.(interface{ Session() string }).Session())
		for _, e := range []hikae.Effect{snapshotEffect("removed", ""), snapshotEffect("left", ""), snapshotEffect("a bitmap", "another repository")} {
			done, err := j.Intend(ctx, e)
			require.NoError(t, err)
			host.put(e.Facts["name"])
			if e.Facts["name"] == "removed" {
				require.NoError(t, host.Undo(ctx, e, nil))
				require.NoError(t, done(ctx))
				host.put("removed") // by somebody else, who happens to call it the same
			}
		}
		made <- true
		<-over
		return fleet.Report{}, errors.New("it was cut off")
	}, &fleet.WorkerOptions{Name: "A", Slots: 1})
	result := dispatchBeside(t, q, run(1))
	<-made
	a.cut.Store(true)
	undone := make(chan int, 1)
	workBeside(t, q, func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		n, err := w.Sweep(ctx, "this repository", map[string]hikae.Sweeper{"test.": host}, nil)
		undone <- n
		return fleet.Report{}, err
	}, &fleet.WorkerOptions{Name: "B", Slots: 1})
	done := <-result
	require.NoError(t, done.err)
	require.Equal(t, "B", done.res.Outcomes[0].Worker)
	require.Equal(t, 1, <-undone)
	require.Equal(t, []string{"a person's", "removed", "a bitmap"}, host.left())
	a.cut.Store(false)
	close(over)
	stopA()

	require.NoError(t, journalA.Close()) // when A's machine is back its own journal still knows
	back, err := hikae.OpenFileJournal(dir)
	require.NoError(t, err)
	defer back.Close()
	n, err := back.SweepFor(t.Context(), "another repository", map[string]hikae.Sweeper{"test.": host}, nil)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"a person's", "removed"}, host.left())
}

// What cannot be undone stays noted for the next holder.
func TestSweepThatFailsIsTriedByTheNext(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Minute})
	host := &hostWith{}
	j, err := hikae.OpenFileJournal(t.TempDir())
	require.NoError(t, err)
	defer j.Close()
	session := func(do func(w *fleet.Work)) {
		w, err := fleet.Alone(t.Context(), q, "nightly", "1", "a person", task("web1"))
		require.NoError(t, err)
		do(w)
		require.NoError(t, w.Release(t.Context()))
	}
	session(func(w *fleet.Work) {
		_, err := w.Journal(j).Intend(t.Context(), snapshotEffect("left", ""))
		require.NoError(t, err)
		host.put("left")
	})
	session(func(w *fleet.Work) {
		n, err := w.Sweep(t.Context(), "", map[string]hikae.Sweeper{"other.": host}, nil)
		require.ErrorContains(t, err, "nobody here undoes")
		require.Zero(t, n)
	})
	session(func(w *fleet.Work) {
		n, err := w.Sweep(t.Context(), "", map[string]hikae.Sweeper{"": host}, nil)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		n, err = w.Sweep(t.Context(), "", map[string]hikae.Sweeper{"": host}, nil)
		require.NoError(t, err)
		require.Zero(t, n)
	})
	require.Empty(t, host.left())
}

// A session that is run beside the fleet and a worker keep apart: who comes second waits, or is told who has it.
func TestAloneAndWorkersKeepApart(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	alone, err := fleet.Alone(t.Context(), q, "nightly", "by hand", "a person", task("vm00"))
	require.NoError(t, err)
	events := make(chan fleet.Event, 100)
	begun, go1 := make(chan bool), make(chan bool)
	workBeside(t, q, func(context.Context, *fleet.Work) (fleet.Report, error) {
		begun <- true
		<-go1
		return fleet.Report{}, nil
	}, &fleet.WorkerOptions{Name: "B", Slots: 1, First: 10 * time.Millisecond, Events: func(e fleet.Event) { events <- e }})
	result := dispatchBeside(t, q, run(1))
	for e := range events {
		require.NotEqual(t, fleet.Begun, e.What)
		if e.What == fleet.Delayed {
			require.ErrorContains(t, e.Err, "a person")
			break
		}
	}
	require.NoError(t, alone.Release(t.Context()))
	<-begun
	_, err = fleet.Alone(t.Context(), q, "nightly", "by hand", "a person", task("vm00"))
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, "B")
	close(go1)
	require.NoError(t, (<-result).err)
}

// What is held beside the queue delays a task and is no attempt at it.
func TestHeldBesideTheQueueIsNoAttempt(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Minute})
	var mu sync.Mutex
	tries := 0
	workBeside(t, q, func(_ context.Context, w *fleet.Work) (fleet.Report, error) {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 6 {
			return fleet.Report{}, &queue.HeldError{What: "vm/1", Owner: "a job of this machine", Since: time.Now()}
		}
		require.Equal(t, 1, w.Attempt)
		return fleet.Report{}, nil
	}, &fleet.WorkerOptions{Attempts: 2, First: time.Millisecond, Most: 10 * time.Millisecond})
	done := <-dispatchBeside(t, q, run(1))
	require.NoError(t, done.err)
	require.Equal(t, 1, done.res.Outcomes[0].Attempts)
}
