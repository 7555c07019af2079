package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/job/queue"
)

// DispatchOptions change how a run is dispatched. Nil and zero fields are good defaults.
type DispatchOptions struct {
	// Again is how often tasks without an outcome are put again. That changes nothing while the queue has them, and mends what a queue
	// lost that was put back to an older state. Zero: 10 minutes.
	Again time.Duration
	// Outcomes hears of each outcome, one at a time, also of those that were there before. Nil: nobody listens.
	Outcomes func(Outcome)
	// Keep is what stays known of the job's older runs. Nil: the defaults.
	Keep *Keep
}

// Result is what became of a run.
type Result struct {
	Job      string    `json:"job"`
	Run      string    `json:"run"`
	State    State     `json:"state"`
	Started  time.Time `json:"started"` // of the first dispatch
	Seconds  float64   `json:"seconds"` // of this one
	Outcomes []Outcome `json:"outcomes"`
	Missing  []string  `json:"missing,omitempty"` // tasks without an outcome, where the context ended first
	Warnings []string  `json:"warnings,omitempty"`
}

const putAtOnce = 16

// dispatch is one under way.
type dispatch struct {
	q     queue.Queue
	b     *board
	run   Run
	opts  DispatchOptions
	open  map[string]*work // by key: no outcome yet
	found map[string]Outcome
}

// Dispatch puts a run's tasks and waits until each has its outcome. Whoever is broken off dispatches the same run again, on any
// machine: what has an outcome is not done again. The error joins those of the tasks that failed; where the context ends first it is
// its error, and the tasks stay in the queue: see [Cancel].
func Dispatch(ctx context.Context, q queue.Queue, run Run, opts *DispatchOptions) (Result, error) {
	d := &dispatch{q: q, run: run, open: map[string]*work{}, found: map[string]Outcome{}}
	if opts != nil {
		d.opts = *opts
	}
	d.opts.Again = cmp.Or(d.opts.Again, 10*time.Minute)
	begun := time.Now()
	res := Result{Job: run.Job, Run: run.Run, Started: begun.UTC(), Outcomes: []Outcome{}}
	if err := d.check(); err != nil {
		return res, err
	}
	var err error
	if d.b, err = openBoard(ctx, q, q.Lease()); err != nil {
		return res, err
	}
	if res.Started, err = d.register(ctx); err != nil {
		return res, err
	}
	err = d.work(ctx)
	res.Seconds = time.Since(begun).Seconds()
	if err == nil {
		if problem := d.tidy(ctx); problem != nil {
			res.Warnings = append(res.Warnings, problem.Error())
		}
	}
	return d.conclude(res, err)
}

func (d *dispatch) check() error {
	if len(d.run.Tasks) > MaxTasks {
		return fmt.Errorf("%d tasks, at most %d: %w", len(d.run.Tasks), MaxTasks, ErrInvalid)
	}
	for _, t := range d.run.Tasks {
		w := &work{version, d.run.Job, d.run.Run, t}
		if _, err := w.message(); err != nil {
			return err
		}
		if d.open[w.key()] != nil {
			return fmt.Errorf("two tasks are called %q: %w", t.ID, ErrInvalid)
		}
		d.open[w.key()] = w
	}
	return nil
}

// register notes the run, so that it can be cancelled and its state be told. It returns when it was first begun.
func (d *dispatch) register(ctx context.Context) (time.Time, error) {
	doc := runDoc{Version: version, Tasks: len(d.run.Tasks), Started: time.Now().UTC()}
	value, err := json.Marshal(doc)
	if err != nil {
		return doc.Started, err
	}
	if _, err = d.b.runs.Create(ctx, queue.Key(d.run.Job, d.run.Run), value); errors.Is(err, queue.ErrConflict) {
		doc, _, err = d.b.run(ctx, d.run.Job, d.run.Run)
	}
	return doc.Started, err
}

// work puts what has no outcome and collects, again and again.
func (d *dispatch) work(ctx context.Context) error {
	if err := d.collect(ctx, d.b.outcomes.List(ctx, queue.Key(d.run.Job, d.run.Run))); err != nil {
		return err
	}
	for len(d.open) > 0 {
		if _, err := d.register(ctx); err != nil { // a queue that was put back to an older state may not know the run
			return err
		}
		if err := d.put(ctx); err != nil {
			return err
		}
		round, cancel := context.WithTimeout(ctx, d.opts.Again)
		err := d.collect(round, d.b.outcomes.Watch(round, queue.Key(d.run.Job, d.run.Run)))
		over := round.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil || over || errors.Is(err, fs.ErrExist):
		case errors.Is(err, ErrInvalid):
			return err
		default: // the queue is away for a moment
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *dispatch) put(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(putAtOnce)
	for _, w := range d.open {
		g.Go(func() error {
			m, err := w.message()
			if err == nil {
				_, err = d.q.Put(ctx, m)
			}
			return err
		})
	}
	return g.Wait()
}

// collect takes outcomes until none is missing.
func (d *dispatch) collect(ctx context.Context, entries func(func(queue.Entry, error) bool)) error {
	for e, err := range entries {
		if err != nil {
			return err
		}
		if d.open[e.Key] == nil || e.Gone {
			continue
		}
		o, err := decodeOutcome(e.Value)
		if err != nil {
			return fmt.Errorf("outcome %s: %w", e.Key, err)
		}
		delete(d.open, e.Key)
		d.found[o.Task] = o
		if d.opts.Outcomes != nil {
			d.opts.Outcomes(o)
		}
		if len(d.open) == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// tidy notes how the run ended, and forgets old ones.
func (d *dispatch) tidy(ctx context.Context) error {
	states := map[State]int{}
	for _, o := range d.found {
		states[o.State]++
	}
	err := d.b.concluded(ctx, d.run.Job, d.run.Run, states)
	if err == nil {
		_, err = d.b.forget(ctx, d.run.Job, d.run.Run, d.opts.Keep)
	}
	if err != nil {
		err = fmt.Errorf("what is known of old runs: %w", err)
	}
	return err
}

func (d *dispatch) conclude(res Result, err error) (Result, error) {
	res.State = Done
	var failed []error
	for _, t := range d.run.Tasks {
		o, ok := d.found[t.ID]
		if !ok {
			res.Missing = append(res.Missing, t.ID)
			continue
		}
		res.Outcomes = append(res.Outcomes, o)
		switch {
		case o.State == Failed:
			res.State = Failed
			failed = append(failed, fmt.Errorf("VM %s: %s", cmp.Or(o.VM, o.Task), o.Error))
		case o.State == Cancelled && res.State != Failed:
			res.State = Cancelled
		case o.State == Warned && res.State == Done:
			res.State = Warned
		}
	}
	if len(res.Missing) > 0 {
		res.State = Cancelled
		failed = append(failed, fmt.Errorf("%d of %d tasks have no outcome: %w", len(res.Missing), len(d.run.Tasks), ErrUnfinished))
	}
	return res, errors.Join(append(failed, err)...)
}

// Cancel makes workers end what they do of a run, and begin nothing more of it. Each task that has no outcome gets one: cancelled.
// fs.ErrNotExist: there is no such run.
func Cancel(ctx context.Context, q queue.Queue, job, run string) error {
	b, err := openBoard(ctx, q, q.Lease())
	if err != nil {
		return err
	}
	for {
		doc, revision, err := b.run(ctx, job, run)
		if err != nil {
			return fmt.Errorf("run %s of job %s: %w", run, job, err)
		}
		doc.Cancelled = true
		value, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		if _, err = b.runs.Update(ctx, queue.Key(job, run), value, revision); !errors.Is(err, queue.ErrConflict) {
			return err
		}
	}
}

// Status is how far a run is.
type Status struct {
	Job       string        `json:"job"`
	Run       string        `json:"run"`
	Started   time.Time     `json:"started"`
	Tasks     int           `json:"tasks"`
	Cancelled bool          `json:"cancelled,omitempty"`
	States    map[State]int `json:"states"` // of the tasks that have an outcome
}

// Runs tells of all runs that the queue knows, or of one job's.
func Runs(ctx context.Context, q queue.Queue, job string) ([]Status, error) {
	b, err := openBoard(ctx, q, q.Lease())
	if err != nil {
		return nil, err
	}
	prefix, list := "", []Status{}
	if job != "" {
		prefix = queue.Key(job)
	}
	for e, err := range b.runs.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		words, wordsErr := queue.Words(e.Key)
		doc, err := decodeRun(e.Value)
		if err := errors.Join(err, wordsErr); err != nil || len(words) != 2 {
			return nil, fmt.Errorf("run %q: %w", e.Key, errors.Join(err, ErrInvalid))
		}
		s := Status{words[0], words[1], doc.Started, doc.Tasks, doc.Cancelled, map[State]int{}}
		if doc.States != nil {
			s.States = doc.States
			list = append(list, s)
			continue
		}
		for e, err := range b.outcomes.List(ctx, e.Key) {
			if err != nil {
				return nil, err
			}
			o, err := decodeOutcome(e.Value)
			if err != nil {
				return nil, fmt.Errorf("outcome %q: %w", e.Key, err)
			}
			s.States[o.State]++
		}
		list = append(list, s)
	}
	return list, nil
}
