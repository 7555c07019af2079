package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// Handler does one kind of task. It may run for what was done before, wholly or in part, by itself or by others, and ends soon
// when its context does. Where something else is at work on the same thing, beside the queue, it returns a *queue.HeldError: the task
// comes back later, and that counts as no attempt.
type Handler func(ctx context.Context, w *Work) (Report, error)

// Report is what a handler has to say of a task that it did.
type Report struct {
	Point    string // full id
	Warnings []string
	Detail   any // becomes JSON
}

// Work is a task in the hands of a handler.
type Work struct {
	Task
	Job, Run string
	Attempt  int    // from 1, of all workers together
	Worker   string // who does it

	held  *queue.Held
	claim string
	b     *board
}

// Key is what the task's point is marked with, JOB/RUN/TASK. See RunFact.
func (w *Work) Key() string { return w.Job + "/" + w.Run + "/" + w.ID }

// Confirm asks whether the task is still this worker's, now. queue.ErrLost: it is not, and nothing more may be done.
func (w *Work) Confirm(ctx context.Context) error { return w.held.Confirm(ctx) }

// WorkerOptions change how a worker works. Zero fields are good defaults.
type WorkerOptions struct {
	Name     string        // for people; empty: the machine's name and a number
	Slots    int           // tasks at once; zero: 4
	Attempts int           // of a task, by all workers together; zero: 3
	First    time.Duration // the wait before a second attempt, doubled for each further; zero: 10 s
	Most     time.Duration // the longest; zero: 10 min
	// Permanent reports errors that another attempt cannot mend. Nil: none.
	Permanent func(error) bool
	// Lease is how long a silent holder of a claim is believed to live. It must be the same for all. Zero: the queue's.
	Lease  time.Duration
	Events func(Event) // one at a time; nil: nobody listens
}

// Event is something that a worker does.
type Event struct {
	What    What
	Job     string
	Run     string
	Task    string
	VM      string
	Attempt int
	Err     error
	Wait    time.Duration // of Delayed and Retried
}

// What a worker does.
type What string

// Events of a worker.
const (
	Begun   What = "begun"
	Ended   What = "ended"   // the outcome stands
	Retried What = "retried" // it failed, and is tried again by whoever takes it
	Delayed What = "delayed" // somebody else works on the same thing
	Lost    What = "lost"    // this worker was cut off; what it did counts for nothing
	Away    What = "away"    // the queue cannot be reached
)

// Worker takes tasks and does them.
type Worker struct {
	q        queue.Queue
	labels   []string
	handlers map[string]Handler
	opts     WorkerOptions
	b        *board

	events sync.Mutex
}

// NewWorker is a worker that reaches what has these labels, and does what it has handlers for, by kind.
func NewWorker(q queue.Queue, labels []string, handlers map[string]Handler, opts *WorkerOptions) *Worker {
	w := &Worker{q: q, labels: labels, handlers: handlers}
	if opts != nil {
		w.opts = *opts
	}
	if w.opts.Name == "" {
		host, _ := os.Hostname()
		w.opts.Name = fmt.Sprintf("%s-%d", cmp.Or(host, "worker"), os.Getpid())
	}
	w.opts.Slots = cmp.Or(w.opts.Slots, 4)
	w.opts.Attempts = cmp.Or(w.opts.Attempts, 3)
	w.opts.First = cmp.Or(w.opts.First, 10*time.Second)
	w.opts.Most = cmp.Or(w.opts.Most, 10*time.Minute)
	w.opts.Lease = cmp.Or(w.opts.Lease, q.Lease())
	return w
}

func (w *Worker) tell(e Event) {
	if w.opts.Events != nil {
		w.events.Lock()
		defer w.events.Unlock()
		w.opts.Events(e)
	}
}

// Run works until the context ends. Then what is under way is ended and given back, without that being counted as an attempt. Its
// error is one that keeps it from working at all; a queue that is away is waited for.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.labels) == 0 || len(w.handlers) == 0 {
		return fmt.Errorf("a worker reaches something and can do something: %w", ErrInvalid)
	}
	for {
		var err error
		if w.b, err = openBoard(ctx, w.q, w.opts.Lease); err == nil {
			break
		}
		w.tell(Event{What: Away, Err: err})
		if errors.Is(err, queue.ErrClosed) || pause(ctx, time.Second) != nil {
			return err
		}
	}
	var slots sync.WaitGroup
	for range w.opts.Slots {
		slots.Go(func() { w.slot(ctx) })
	}
	slots.Wait()
	return nil
}

func (w *Worker) slot(ctx context.Context) {
	for ctx.Err() == nil {
		d, err := w.q.Take(ctx, w.labels)
		switch {
		case ctx.Err() != nil && err != nil:
			return
		case errors.Is(err, queue.ErrClosed):
			return
		case err != nil:
			w.tell(Event{What: Away, Err: err})
			if pause(ctx, time.Second) != nil {
				return
			}
		default:
			w.take(ctx, d)
		}
	}
}

// take does what was delivered. Where the queue fails on the way, the message comes again to somebody when its lease ends.
func (w *Worker) take(ctx context.Context, d queue.Delivery) {
	t, err := decodeWork(d.Message().Body)
	if newer, ok := errors.AsType[*queue.VersionError](err); ok {
		w.tell(Event{What: Away, Err: newer})
		_ = d.Fail(ctx, w.opts.Lease) // for a newer worker
		return
	}
	if err != nil {
		w.tell(Event{What: Ended, Task: d.Message().ID, Err: errors.Join(err, d.Bury(ctx, err.Error()))})
		return
	}
	if err := w.attempt(ctx, d, t); err != nil {
		w.tell(w.event(Away, t, 0, err))
	}
}

func (w *Worker) event(what What, t *work, attempt int, err error) Event {
	return Event{What: what, Job: t.Job, Run: t.Run, Task: t.Task.ID, VM: t.Task.VM, Attempt: attempt, Err: err}
}

// attempt does a task if there is anything to do. Its error is one of the queue.
func (w *Worker) attempt(ctx context.Context, d queue.Delivery, t *work) error {
	if o, err := w.b.outcome(ctx, t.key()); err != nil {
		return err
	} else if o != nil {
		return d.Done(ctx)
	}
	handler := w.handlers[t.Task.Kind]
	if handler == nil { // another worker may know the kind
		return d.Fail(ctx, w.opts.Lease)
	}
	alive := w.keep(ctx, d)
	defer alive.stop()
	held, err := w.b.claims.Claim(ctx, t.claim(), w.opts.Name)
	if busy, ok := errors.AsType[*queue.HeldError](err); ok {
		e := w.event(Delayed, t, 0, busy)
		e.Wait = w.delay(d.Number())
		w.tell(e)
		return d.Fail(ctx, e.Wait)
	}
	if err != nil {
		return errors.Join(err, d.Fail(context.WithoutCancel(ctx), w.opts.First))
	}
	defer func() { _ = held.Release(ctx) }() // what is not released falls silent, and is free soon
	return w.do(ctx, d, t, handler, held)
}

// delay doubles.
func (w *Worker) delay(attempt int) time.Duration {
	d := w.opts.First
	for i := 1; i < attempt && d < w.opts.Most; i++ {
		d *= 2
	}
	return min(d, w.opts.Most)
}

// do runs the handler under the claim, and hands over what it came to.
func (w *Worker) do(ctx context.Context, d queue.Delivery, t *work, handler Handler, held *queue.Held) error {
	if o, err := w.b.outcome(ctx, t.key()); err != nil || o != nil { // who held the claim before us may have done it
		if err == nil {
			err = d.Done(ctx)
		}
		return err
	}
	out := &Outcome{Job: t.Job, Run: t.Run, Task: t.Task.ID, VM: t.Task.VM, Worker: w.opts.Name, Begun: time.Now().UTC(), Token: rand.Text()}
	switch doc, _, err := w.b.run(ctx, t.Job, t.Run); {
	case errors.Is(err, fs.ErrNotExist): // who waits for it still puts it again
		w.tell(w.event(Ended, t, 0, ErrForgotten))
		return d.Done(ctx)
	case err != nil:
		return err
	case doc.Cancelled:
		out.State = Cancelled
		return w.settle(ctx, d, t, held, out)
	}
	var err error
	if out.Attempts, err = w.b.count(ctx, t.key(), 1); err != nil {
		return err
	}
	if out.Attempts > w.opts.Attempts { // workers died of it
		out.Attempts--
		out.State, out.Error = Failed, fmt.Sprintf("%d attempts were begun, and none came to an end", out.Attempts)
		return w.settle(ctx, d, t, held, out)
	}
	w.tell(w.event(Begun, t, out.Attempts, nil))
	report, err := w.handle(ctx, t, handler, held, out.Attempts)
	out.Seconds = time.Since(out.Begun).Seconds()
	return w.conclude(ctx, d, t, held, out, report, err)
}

var errCancelled = errors.New("the run was cancelled")

// handle runs the handler until it is done, the claim is lost or the run cancelled. A panic is the failure of one task.
func (w *Worker) handle(ctx context.Context, t *work, handler Handler, held *queue.Held, attempt int) (report Report, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		tick := time.NewTicker(w.opts.Lease / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-held.Lost():
				cancel(queue.ErrLost)
				return
			case <-tick.C:
				if w.b.cancelled(ctx, t.Job, t.Run) {
					cancel(errCancelled)
					return
				}
			}
		}
	})
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}()
	return handler(ctx, &Work{Task: t.Task, Job: t.Job, Run: t.Run, Attempt: attempt, Worker: w.opts.Name, held: held, claim: t.claim(), b: w.b})
}

// conclude hands over an end, or gives the task to the next one.
func (w *Worker) conclude(ctx context.Context, d queue.Delivery, t *work, held *queue.Held, out *Outcome, report Report, err error) error {
	lost := false
	select {
	case <-held.Lost():
		lost = true
	default:
	}
	switch {
	case lost || errors.Is(err, queue.ErrLost):
		w.tell(w.event(Lost, t, out.Attempts, err))
		return nil // whoever took the claim over sees to the task, and so does the message
	case err == nil:
		out.State, out.Point, out.Warnings = Done, report.Point, report.Warnings
		if len(out.Warnings) > 0 {
			out.State = Warned
		}
		if report.Detail != nil {
			if out.Detail, err = json.Marshal(report.Detail); err != nil {
				out.Warnings = append(out.Warnings, "the detail could not be kept: "+err.Error())
			}
		}
	case ctx.Err() != nil: // this worker stops
		return w.giveBack(context.WithoutCancel(ctx), d, t, held, 0)
	case isHeld(err):
		e := w.event(Delayed, t, out.Attempts, err)
		e.Wait = w.delay(d.Number())
		w.tell(e)
		return w.giveBack(ctx, d, t, held, e.Wait)
	case errors.Is(err, errCancelled):
		out.State, out.Error = Cancelled, err.Error()
	case out.Attempts < w.opts.Attempts && (w.opts.Permanent == nil || !w.opts.Permanent(err)):
		e := w.event(Retried, t, out.Attempts, err)
		e.Wait = w.delay(out.Attempts)
		w.tell(e)
		return errors.Join(held.Release(ctx), d.Fail(ctx, e.Wait))
	default:
		out.State, out.Error = Failed, err.Error()
	}
	return w.settle(ctx, d, t, held, out)
}

// giveBack puts a task back as if it had not been begun.
func (w *Worker) giveBack(ctx context.Context, d queue.Delivery, t *work, held *queue.Held, wait time.Duration) error {
	_, err := w.b.count(ctx, t.key(), -1)
	return errors.Join(err, held.Release(ctx), d.Fail(ctx, wait))
}

func isHeld(err error) bool {
	_, ok := errors.AsType[*queue.HeldError](err)
	return ok
}

// settle makes the outcome stand, if the task is still ours, and takes the message out of the queue.
func (w *Worker) settle(ctx context.Context, d queue.Delivery, t *work, held *queue.Held, out *Outcome) error {
	ctx = context.WithoutCancel(ctx) // the work is done: a worker that stops hands it over still
	var first *Outcome
	for {
		err := held.Confirm(ctx)
		if err == nil {
			first, err = w.b.settle(ctx, t.key(), out)
		}
		if errors.Is(err, queue.ErrLost) {
			w.tell(w.event(Lost, t, out.Attempts, err))
			return nil
		}
		if err == nil || errors.Is(err, ErrInvalid) {
			break
		}
		_ = pause(ctx, w.opts.Lease/10) // until the claim is lost, or the queue is back
	}
	if first != nil && first.Token != out.Token {
		w.tell(w.event(Lost, t, out.Attempts, fmt.Errorf("%s was first: %w", first.Worker, queue.ErrConflict)))
	} else {
		var err error
		if out.State == Failed {
			err = errors.New(out.Error)
		}
		w.tell(w.event(Ended, t, out.Attempts, err))
	}
	return d.Done(ctx)
}

// keeper extends a delivery's lease.
type keeper struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

// keep shows the queue that the message is being worked on. That it cannot is no reason to stop: the claim decides.
func (w *Worker) keep(ctx context.Context, d queue.Delivery) *keeper {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &keeper{cancel, make(chan struct{})}
	go func() {
		defer close(k.done)
		tick := time.NewTicker(w.q.Lease() / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := d.Extend(ctx); errors.Is(err, queue.ErrLost) {
					return
				}
			}
		}
	}()
	return k
}
