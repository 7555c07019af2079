package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	mrand "math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
)

// maxTasks bounds a run.
const maxTasks = 1 << 20

// Run runs tasks until all have ended. The error joins those of the tasks; a list that is none (two tasks of one id) is fs.ErrInvalid, and
// nothing is begun. A cancelled context ends those that run, in good order, and the others are not begun.
func Run(ctx context.Context, name string, list []Task, opts *Options) (Result, error) {
	r := &runner{used: map[string]int{}, rests: map[string]*rest{}, limits: map[string]limit{}, elsewhere: map[string]elsewhere{}, ended: make(chan *item), begun: time.Now()}
	if opts != nil {
		r.opts = *opts
	}
	r.opts.Retry = r.opts.Retry.OrDefault()
	if r.opts.Patience <= 0 {
		r.opts.Patience = defaultPatience
	}
	if r.opts.GiveUp <= 0 {
		r.opts.GiveUp = defaultGiveUp
	}
	r.res = Result{Job: name, Run: r.opts.Run, Started: r.begun, Tasks: []TaskResult{}}
	if r.res.Run == "" && r.opts.Progress != nil {
		r.res.Run = r.opts.Progress.Run()
	}
	if r.res.Run == "" {
		r.res.Run = strings.ToLower(rand.Text()[:12])
	}
	if err := r.add(list); err != nil {
		r.res.State = Failed
		return r.res, err
	}
	r.listener = newListener(r.opts.Events)
	cancelled := r.run(ctx)
	r.listener.close()
	for _, i := range r.items {
		r.res.Tasks = append(r.res.Tasks, i.result)
	}
	r.res.Seconds = seconds(time.Since(r.begun))
	r.res.State = stateOf(r.res.Tasks)
	if cancelled && r.res.State == Cancelled {
		return r.res, r.res.Err()
	}
	if r.res.State == Cancelled { // single ones, as somebody wished
		r.res.State = Warned
		if r.res.Count(Failed) > 0 {
			r.res.State = Failed
		}
	}
	return r.res, r.res.Err()
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e3) / 1e3 }

// item is a task on its way. Only the runner's own goroutine looks at it, but while it runs.
type item struct {
	task     *Task
	needs    []string // with "tasks", sorted
	same     string   // the needs as one word: who has the same is free at the same moments
	others   map[string]string
	queued   time.Time
	ready    time.Time // since when it could begin, but for what others have
	begun    time.Time // first attempt
	after    time.Time // not before this
	runs     bool
	over     bool
	stop     context.CancelCauseFunc
	lacked   []string // what it was said to wait for, before this attempt
	probes   int      // of the attempts: tries at a resource that is away, which are not the task's fault
	slots    []slot   // that other runs see taken, while it runs
	unshared []string // what went wrong with them
	result   TaskResult

	outcome Outcome // of the attempt that has ended
	err     error
	cause   error // why it was stopped
}

type runner struct {
	opts  Options
	begun time.Time
	res   Result
	items []*item
	works []*item        // those that run: a few
	used  map[string]int // of each resource, by them
	rests map[string]*rest
	ended chan *item

	limits    map[string]limit // by need
	elsewhere map[string]elsewhere

	closed, paused bool // that was told

	listener *listener
}

func (r *runner) add(list []Task) error {
	if len(list) > maxTasks {
		return fmt.Errorf("%d tasks, and at most %d can be run: %w", len(list), maxTasks, fs.ErrInvalid)
	}
	seen := map[string]bool{}
	for i := range list {
		t := &list[i]
		if seen[t.ID] || t.ID == "" || t.Do == nil {
			return fmt.Errorf("task %q is there twice, has no id, or does nothing: %w", t.ID, fs.ErrInvalid)
		}
		seen[t.ID] = true
		it := &item{task: t, queued: r.begun, ready: r.begun, result: TaskResult{ID: t.ID, VM: t.VM, Kind: t.Kind}}
		it.needs = slices.Compact(slices.Sorted(slices.Values(append([]string{"tasks"}, t.Needs...))))
		it.same, it.others = strings.Join(it.needs, "\n"), othersOf(it.needs)
		r.items = append(r.items, it)
	}
	for _, it := range r.items {
		if before, ok := r.opts.Progress.earlier(it.task.ID); ok {
			before.Earlier = true
			it.result, it.over = before, true
		}
	}
	return nil
}

func (r *runner) tell(e Event) { r.listener.say(e) }

func (r *runner) run(ctx context.Context) (cancelled bool) {
	r.refuse()
	for {
		changed := r.opts.Control.changed()
		open, changes := r.window()
		r.pausing()
		r.cancelSome()
		switch {
		case ctx.Err() != nil:
			cancelled = true
			r.cancelAll(ctx)
		case open && !r.paused:
			r.begin(ctx)
		}
		if !slices.ContainsFunc(r.items, func(i *item) bool { return !i.over }) {
			return cancelled || r.opts.Control.cancelled("")
		}
		r.wait(ctx, changes, changed)
	}
}

// window looks at it, and tells when it closes in the way of tasks.
func (r *runner) window() (open bool, changes time.Time) {
	if r.opts.Window == nil {
		return true, time.Time{}
	}
	open, changes = r.opts.Window(time.Now())
	waiting := slices.ContainsFunc(r.items, func(i *item) bool { return !i.over && !i.runs })
	if !open && r.opts.StopAtClose {
		r.stopAll(ErrClosed)
	}
	if !open && !r.closed && waiting {
		r.tell(Event{What: Closed, Until: changes})
	}
	r.closed = !open && (r.closed || waiting)
	return open, changes
}

func (r *runner) pausing() {
	paused, stop := r.opts.Control.isPaused()
	if stop {
		r.stopAll(ErrPaused)
	}
	switch {
	case paused && !r.paused:
		r.tell(Event{What: Paused})
	case !paused && r.paused:
		r.tell(Event{What: Resumed})
	}
	r.paused = paused
}

func (r *runner) stopAll(why error) {
	for _, i := range r.works {
		i.stop(why)
	}
}

func (r *runner) cancelSome() {
	for _, i := range r.items {
		if i.over || !r.opts.Control.cancelled(i.task.ID) {
			continue
		}
		if i.runs {
			i.stop(ErrCancelled)
		} else {
			r.end(i, Cancelled, ErrCancelled)
		}
	}
}

// cancelAll ends what waits: nothing is begun any more. What runs hears of it by its own context.
func (r *runner) cancelAll(ctx context.Context) {
	for _, i := range r.items {
		if !i.over && !i.runs {
			r.end(i, Cancelled, context.Cause(ctx))
		}
	}
}

func (r *runner) start(ctx context.Context, i *item, now time.Time) {
	for _, need := range i.needs {
		r.used[need]++
		if s := r.rests[need]; s.rests() {
			s.probe = i
		}
	}
	if i.begun.IsZero() {
		i.begun, i.result.Waited = now, seconds(now.Sub(i.queued))
	}
	i.runs, r.works, i.lacked = true, append(r.works, i), nil
	i.result.Attempts++
	number := i.result.Attempts
	ctx, i.stop = context.WithCancelCause(ctx)
	a := &Attempt{Number: number, Run: r.res.Job + "/" + r.res.Run + "/" + i.task.ID, Events: func(e job.Event) {
		r.tell(Event{What: Told, Task: i.task.ID, VM: i.task.VM, Attempt: number, Session: e})
	}}
	r.tell(Event{What: Begun, Task: i.task.ID, VM: i.task.VM, Attempt: number})
	go func() {
		i.outcome, i.err = r.attempt(ctx, i, a)
		i.cause = context.Cause(ctx)
		r.ended <- i
	}()
}

// attempt works on what the task has claimed, for as long as the claim holds.
func (r *runner) attempt(ctx context.Context, i *item, a *Attempt) (out Outcome, err error) {
	if i.task.Claim == "" || r.opts.Claims == nil {
		return do(ctx, i.task, a)
	}
	claim, err := r.opts.Claims.Claim(ctx, i.task.Claim, fmt.Sprintf("job %s, run %s", r.res.Job, r.res.Run))
	if err != nil {
		return Outcome{}, err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		if releaseErr := claim.Release(bounded); releaseErr != nil {
			out.Warnings = append(out.Warnings, fmt.Sprintf("the claim on %s was not given back: %v", i.task.Claim, releaseErr))
		}
	}()
	held, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-claim.Lost():
			cancel(ErrLost)
		case <-over:
		}
	})
	out, err = do(held, i.task, a)
	close(over)
	watch.Wait()
	if err != nil && errors.Is(context.Cause(held), ErrLost) {
		err = errors.Join(ErrLost, err)
	}
	return out, err
}

const releaseWithin = 30 * time.Second

// ErrLost is why a task was ended whose claim was lost: somebody else may be at work on the same thing.
var ErrLost = errors.New("the claim was lost")

// isBusy: another try meets the same owner, and whoever asked wants to know.
func isBusy(err error) bool {
	var busy *hikae.BusyError
	return errors.As(err, &busy)
}

// do takes a panic for the failure of one task.
func do(ctx context.Context, t *Task, a *Attempt) (out Outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return t.Do(ctx, a)
}

// mostWait is how long is waited at most: clocks are set, and windows move with them.
const mostWait = time.Minute

// wait waits until something may have changed.
func (r *runner) wait(ctx context.Context, changes time.Time, changed <-chan struct{}) {
	now := time.Now()
	next := now.Add(mostWait)
	sooner := func(at time.Time) {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	sooner(changes)
	for _, i := range r.items {
		if !i.over && !i.runs {
			sooner(i.after)
			sooner(i.ready.Add(r.opts.Patience))
		}
	}
	for _, s := range r.rests {
		sooner(s.until)
	}
	for _, e := range r.elsewhere {
		sooner(e.until)
	}
	timer := time.NewTimer(max(next.Sub(now), time.Millisecond))
	defer timer.Stop()
	cancelled := ctx.Done()
	if ctx.Err() != nil {
		cancelled = nil // it is known; what runs is waited for
	}
	select {
	case i := <-r.ended:
		r.attempted(ctx, i)
	case <-changed:
	case <-cancelled:
	case <-timer.C:
	}
}

// attempted takes the end of an attempt.
func (r *runner) attempted(ctx context.Context, i *item) {
	i.runs, r.works = false, slices.DeleteFunc(r.works, func(o *item) bool { return o == i })
	i.stop(nil)
	i.ready = time.Now()
	for _, need := range i.needs {
		r.used[need]--
	}
	r.unshare(i)
	i.outcome.Warnings = append(i.outcome.Warnings, i.unshared...)
	i.unshared = nil
	i.result.Outcome = i.outcome
	again := i.err != nil && (errors.Is(i.cause, ErrClosed) || errors.Is(i.cause, ErrPaused))
	if i.err != nil && !again && r.probing(i) {
		i.probes++
	}
	switch {
	case i.err == nil && len(i.outcome.Warnings) > 0:
		r.end(i, Warned, nil)
	case i.err == nil:
		r.end(i, Done, nil)
	case ctx.Err() != nil, errors.Is(i.cause, ErrCancelled):
		r.end(i, Cancelled, i.err)
	case again: // it is not its fault
		i.result.Attempts--
		i.after = time.Time{}
	case i.result.Attempts-i.probes >= r.opts.Retry.Attempts, r.opts.Retry.Permanent(i.err):
		r.end(i, Failed, i.err)
	default:
		wait := r.delay(i.result.Attempts)
		i.after = time.Now().Add(wait)
		r.tell(Event{What: Retried, Task: i.task.ID, VM: i.task.VM, Attempt: i.result.Attempts, Err: i.err, Wait: wait})
	}
	r.blame(i, i.err != nil && ctx.Err() == nil && !again && !errors.Is(i.cause, ErrCancelled) && !r.opts.Retry.Permanent(i.err))
}

// delay doubles with each attempt, and is spread, so that what failed together is not tried again together.
func (r *runner) delay(attempt int) time.Duration {
	d := r.opts.Retry.First
	for range min(attempt-1, 62) {
		d = min(2*d, r.opts.Retry.Most)
	}
	return d*3/4 + time.Duration(mrand.Int64N(int64(d)/2+1))
}

func (r *runner) end(i *item, s State, err error) {
	i.over = true
	i.result.State, i.result.Err = s, err
	if err != nil {
		i.result.Error = err.Error()
	}
	if !i.begun.IsZero() {
		i.result.Seconds = seconds(time.Since(i.begun))
	}
	if saveErr := r.opts.Progress.add(i.result); saveErr != nil {
		i.result.State = Warned // it is done, and only what is done is written down
		i.result.Warnings = append(i.result.Warnings, fmt.Sprintf("that it is done could not be written down: %v", saveErr))
	}
	res := i.result
	r.tell(Event{What: Ended, Task: i.task.ID, VM: i.task.VM, Attempt: i.result.Attempts, Err: err, Result: &res})
}
