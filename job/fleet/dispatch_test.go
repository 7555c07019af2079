package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/queue"
)

type dispatched struct {
	res fleet.Result
	err error
}

func dispatchBeside(t *testing.T, q queue.Queue, run fleet.Run) chan dispatched {
	t.Helper()
	return dispatchFor(t, q, run, time.Minute)
}

func dispatchFor(t *testing.T, q queue.Queue, run fleet.Run, limit time.Duration) chan dispatched {
	t.Helper()
	out := make(chan dispatched, 1)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	go func() {
		res, err := fleet.Dispatch(ctx, q, run, nil)
		out <- dispatched{res, err}
	}()
	return out
}

// lostEvents counts what a worker did for nothing.
type lostEvents struct {
	mu sync.Mutex
	n  int
}

func (l *lostEvents) hear(e fleet.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.What == fleet.Lost {
		l.n++
	}
}

func (l *lostEvents) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func run(tasks int) fleet.Run {
	r := fleet.Run{Job: "nightly", Run: "1"}
	for i := range tasks {
		r.Tasks = append(r.Tasks, task(fmt.Sprintf("vm%02d", i)))
	}
	return r
}

func TestFailuresAreTriedAgain(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Second})
	var mu sync.Mutex
	tries := map[string]int{}
	broken := errors.New("no such VM")
	workBeside(t, q, func(_ context.Context, w *fleet.Work) (fleet.Report, error) {
		mu.Lock()
		defer mu.Unlock()
		tries[w.VM]++
		switch {
		case w.VM == "vm00" && w.Attempt < 3:
			return fleet.Report{}, errors.New("the host is busy")
		case w.VM == "vm01":
			panic("a broken disk")
		case w.VM == "vm02":
			return fleet.Report{}, broken
		}
		return fleet.Report{Point: "p-" + w.VM, Detail: map[string]int{"tries": w.Attempt}}, nil
	}, &fleet.WorkerOptions{First: 10 * time.Millisecond, Permanent: func(err error) bool { return errors.Is(err, broken) }})
	done := <-dispatchBeside(t, q, run(4))
	require.ErrorContains(t, done.err, "a broken disk")
	require.ErrorContains(t, done.err, "no such VM")
	require.Equal(t, fleet.Failed, done.res.State)
	require.Equal(t, map[string]int{"vm00": 3, "vm01": 3, "vm02": 1, "vm03": 1}, tries)
	states := map[string]fleet.State{}
	for _, o := range done.res.Outcomes {
		states[o.VM] = o.State
	}
	require.Equal(t, map[string]fleet.State{"vm00": fleet.Done, "vm01": fleet.Failed, "vm02": fleet.Failed, "vm03": fleet.Done}, states)
	require.JSONEq(t, `{"tries":3}`, string(done.res.Outcomes[0].Detail))
	require.Eventually(t, func() bool {
		c, err := q.Counts(t.Context())
		return err == nil && c == queue.Counts{}
	}, 5*time.Second, 10*time.Millisecond)
}

// A dispatcher that died is begun anew, and nothing is done twice.
func TestDispatchGoesOn(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Second})
	var mu sync.Mutex
	tries := map[string]int{}
	half, gate := make(chan bool), make(chan bool)
	workBeside(t, q, func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		mu.Lock()
		tries[w.VM]++
		n := len(tries)
		mu.Unlock()
		if n == 6 {
			close(half)
		}
		if n >= 6 {
			<-gate
		}
		return fleet.Report{}, nil
	}, &fleet.WorkerOptions{Slots: 1})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-half; cancel() }()
	res, err := fleet.Dispatch(ctx, q, run(10), nil)
	require.ErrorIs(t, err, fleet.ErrUnfinished)
	require.Equal(t, fleet.Cancelled, res.State)
	require.NotEmpty(t, res.Missing)
	close(gate)
	done := <-dispatchBeside(t, q, run(10))
	require.NoError(t, done.err)
	require.Len(t, done.res.Outcomes, 10)
	require.Len(t, tries, 10)
	for vm, n := range tries {
		require.Equal(t, 1, n, vm)
	}
	status, err := fleet.Runs(t.Context(), q, "nightly")
	require.NoError(t, err)
	require.Len(t, status, 1)
	require.Equal(t, map[fleet.State]int{fleet.Done: 10}, status[0].States)
}

func TestCancel(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	begun := make(chan bool, 10)
	workBeside(t, q, func(ctx context.Context, _ *fleet.Work) (fleet.Report, error) {
		begun <- true
		<-ctx.Done()
		return fleet.Report{}, ctx.Err()
	}, &fleet.WorkerOptions{Slots: 1})
	result := dispatchBeside(t, q, run(3))
	<-begun
	require.NoError(t, fleet.Cancel(t.Context(), q, "nightly", "1"))
	done := <-result
	require.Equal(t, fleet.Cancelled, done.res.State)
	require.Len(t, done.res.Outcomes, 3)
	require.Len(t, begun, 0)
}

// A worker that is stopped gives its task back, and that counts as no attempt.
func TestStoppedWorkerGivesBack(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Minute})
	begun := make(chan bool)
	stop := workBeside(t, q, func(ctx context.Context, _ *fleet.Work) (fleet.Report, error) {
		begun <- true
		<-ctx.Done()
		return fleet.Report{}, ctx.Err()
	}, &fleet.WorkerOptions{Attempts: 1})
	result := dispatchBeside(t, q, run(1))
	<-begun
	stop()
	workBeside(t, q, func(_ context.Context, w *fleet.Work) (fleet.Report, error) {
		return fleet.Report{Point: fmt.Sprint(w.Attempt)}, nil
	}, &fleet.WorkerOptions{Attempts: 1})
	done := <-result
	require.NoError(t, done.err)
	require.Equal(t, "1", done.res.Outcomes[0].Point)
}

// Two tasks on one VM, of two jobs, never run at once.
func TestOneVMOfTwoJobs(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	var mu sync.Mutex
	at, most := 0, 0
	workBeside(t, q, func(context.Context, *fleet.Work) (fleet.Report, error) {
		mu.Lock()
		at++
		most = max(most, at)
		mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		at--
		mu.Unlock()
		return fleet.Report{}, nil
	}, &fleet.WorkerOptions{First: 20 * time.Millisecond})
	a, b := run(1), run(1)
	b.Job = "weekly"
	first, second := dispatchBeside(t, q, a), dispatchBeside(t, q, b)
	require.NoError(t, (<-first).err)
	require.NoError(t, (<-second).err)
	require.Equal(t, 1, most)
}

func TestBadRunsAreRefused(t *testing.T) {
	q := queue.NewMemory(nil)
	twice := run(1)
	twice.Tasks = append(twice.Tasks, twice.Tasks[0])
	noLabel := run(1)
	noLabel.Tasks[0].Label = ""
	for what, r := range map[string]fleet.Run{"twice": twice, "no label": noLabel, "no job": {Run: "1", Tasks: run(1).Tasks}} {
		_, err := fleet.Dispatch(t.Context(), q, r, nil)
		require.ErrorIs(t, err, fleet.ErrInvalid, what)
	}
	c, err := q.Counts(t.Context())
	require.NoError(t, err)
	require.Equal(t, queue.Counts{}, c)
}
