package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

const size = 256 << 10

// site is a store that several machines reach.
func site(t *testing.T) store.Store {
	t.Helper()
	st := memstore.New(nil)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return st
}

// machine opens a repository as a process of its own does.
func machine(t *testing.T, st store.Store) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), st, nil, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// copyVM writes a VM's disk, and leaves the commit to the caller.
func copyVM(ctx context.Context, b pipe.Backend, vm string) (pipe.PointWriter, error) {
	w, err := b.Begin(ctx, vm, nil)
	if err != nil {
		return nil, err
	}
	disk, err := w.Disk(ctx, "d0", size)
	if err != nil {
		return w, err
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = vm[i%len(vm)] + byte(i>>16)
	}
	if _, err := disk.WriteAt(ctx, data, 0); err != nil {
		return w, err
	}
	return w, disk.Commit(ctx)
}

// backup is what a handler does: nothing where this run's point is there.
func backup(r *repo.Repository, before func(w *fleet.Work, pw pipe.PointWriter)) fleet.Handler {
	return func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		b, err := w.Fence(ctx, "repository/"+r.ID(), r)
		if err != nil {
			return fleet.Report{}, err
		}
		if p, ok, err := b.Point(ctx, w.VM); ok || err != nil {
			return fleet.Report{Point: p.ID}, err
		}
		pw, err := copyVM(ctx, b, w.VM)
		if pw != nil {
			defer pw.Close()
		}
		if err != nil {
			return fleet.Report{}, err
		}
		if before != nil {
			before(w, pw)
		}
		id, err := pw.Commit(ctx, nil)
		return fleet.Report{Point: id}, err
	}
}

func points(t *testing.T, r *repo.Repository, vm string) (list []pipe.PointInfo) {
	t.Helper()
	for p, err := range r.Points(t.Context(), vm) {
		require.NoError(t, err)
		list = append(list, p)
	}
	return list
}

func task(id string) fleet.Task {
	return fleet.Task{ID: id, VM: id, Kind: "backup", Claim: "vm/fake/" + id, Label: "site/a"}
}

// work runs a worker beside the test, until stop is called or the test ends.
func workBeside(t *testing.T, q queue.Queue, h fleet.Handler, opts *fleet.WorkerOptions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w := fleet.NewWorker(q, []string{"site/a"}, map[string]fleet.Handler{"backup": h}, opts)
	go func() { done <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			assert.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

// Worker A stops between copy and commit, loses its claim, B does the task anew and commits, A wakes up and commits past every check of
// its own: the repository refuses it, and the VM has one point.
func TestLateCommitIsRefusedByTheRepository(t *testing.T) {
	st := site(t)
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	a, ra, rb := &line{Queue: q}, machine(t, st), machine(t, st)
	copied, wake, late := make(chan bool), make(chan bool), make(chan error, 1)
	hold := func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		past := &past{Repository: ra}
		b, err := w.Fence(ctx, "repository/"+ra.ID(), past)
		if err != nil {
			return fleet.Report{}, err
		}
		pw, err := copyVM(ctx, b, w.VM)
		if err != nil {
			return fleet.Report{}, err
		}
		copied <- true
		<-wake
		_, byWorker := pw.Commit(context.WithoutCancel(ctx), nil)
		_, byRepository := past.writer.Commit(context.WithoutCancel(ctx), nil)
		_ = pw.Close()
		require.ErrorIs(t, byWorker, queue.ErrLost)
		late <- byRepository
		return fleet.Report{Point: "none"}, nil // it does not even know that it failed
	}
	var heard lostEvents
	stopA := workBeside(t, a, hold, &fleet.WorkerOptions{Name: "A", Slots: 1, Events: heard.hear})
	result := dispatchBeside(t, q, fleet.Run{Job: "nightly", Run: "1", Tasks: []fleet.Task{task("web1")}})
	<-copied
	a.cut.Store(true)
	workBeside(t, q, backup(rb, nil), &fleet.WorkerOptions{Name: "B", Slots: 1})
	done := <-result
	require.NoError(t, done.err)
	require.Equal(t, "B", done.res.Outcomes[0].Worker)
	a.cut.Store(false)
	close(wake)
	require.ErrorIs(t, <-late, repo.ErrRevoked)
	stopA()
	require.Equal(t, 1, heard.count())

	list := points(t, rb, "web1")
	require.Len(t, list, 1)
	require.Equal(t, "nightly/1/web1", list[0].Facts[fleet.RunFact])
	require.Equal(t, done.res.Outcomes[0].Point, list[0].ID)
	require.Len(t, points(t, machine(t, st), "web1"), 1)
}

// past keeps the repository's own writer, so that the test can go around all checks of the worker.
type past struct {
	*repo.Repository
	writer pipe.PointWriter
}

func (p *past) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := p.Repository.Begin(ctx, vm, opts)
	p.writer = w
	return w, err
}

// A is cut off after the commit and before the outcome: B finds the point and makes no second one.
func TestCommittedAndCutOff(t *testing.T) {
	st := site(t)
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 300 * time.Millisecond})
	a, ra, rb := &line{Queue: q}, machine(t, st), machine(t, st)
	committed := make(chan string, 1)
	inner := backup(ra, nil)
	stopA := workBeside(t, a, func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		r, err := inner(ctx, w)
		a.cut.Store(true)
		committed <- r.Point
		return r, err
	}, &fleet.WorkerOptions{Name: "A", Slots: 1})
	result := dispatchBeside(t, q, fleet.Run{Job: "nightly", Run: "1", Tasks: []fleet.Task{task("web1")}})
	point := <-committed
	workBeside(t, q, backup(rb, nil), &fleet.WorkerOptions{Name: "B", Slots: 1})
	done := <-result
	require.NoError(t, done.err)
	require.Equal(t, "B", done.res.Outcomes[0].Worker)
	require.Equal(t, point, done.res.Outcomes[0].Point)
	require.Len(t, points(t, rb, "web1"), 1)
	a.cut.Store(false)
	stopA()
}

// A backend whose sessions nobody can end is refused before anything is written.
func TestBackendThatCannotFence(t *testing.T) {
	r := machine(t, site(t))
	q := queue.NewMemory(nil)
	workBeside(t, q, func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		_, err := w.Fence(ctx, "x", struct{ pipe.Backend }{r})
		return fleet.Report{}, err
	}, &fleet.WorkerOptions{Attempts: 1})
	done := <-dispatchBeside(t, q, fleet.Run{Job: "j", Run: "1", Tasks: []fleet.Task{task("web1")}})
	require.ErrorContains(t, done.err, fleet.ErrCannotFence.Error())
}
