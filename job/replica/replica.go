package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae/pipe"
)

// Options change how a replica is worked with. Nil and zero fields are good defaults.
type Options struct {
	Keep int // how many points stay after a sync; zero: 8
	// Undone bounds what is done after a failure, whatever became of the context: the source that is started again. Zero:
	// 10 minutes.
	Undone time.Duration
	Step   func(name string) // is told what begins, such as "stopping". Nil: nobody listens
}

// DefaultKeep is how many points a replica has where nobody says it. Each is one more file that a read may have to look
// into.
const DefaultKeep = 8

// Replica is the replica of one VM at a site.
type Replica struct {
	site Site
	vm   string
	book *Book
	opts Options
}

// New is the replica of a VM. Nothing is touched, and there need not be one yet.
func New(site Site, vm string, book *Book, opts *Options) *Replica {
	r := &Replica{site: site, vm: vm, book: book}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Keep <= 0 {
		r.opts.Keep = DefaultKeep
	}
	if r.opts.Undone <= 0 {
		r.opts.Undone = 10 * time.Minute
	}
	if r.opts.Step == nil {
		r.opts.Step = func(string) {}
	}
	return r
}

// call is one call under way.
type call struct {
	*Replica
	res   Result
	under *UnderWay // as the book has it; nil: nothing
	last  time.Time // when the step under way began
	state State
}

// begin takes the VM, and looks where it stands.
func (r *Replica) begin(ctx context.Context, what string) (_ *call, end func(*Result, *error), err error) {
	c := &call{Replica: r, last: time.Now()}
	c.res = Result{VM: r.vm, What: what, Started: time.Now().UTC(), Syncs: []Synced{}, Steps: []StepDone{}, Warnings: []string{}}
	if r.vm == "" || len(r.vm) > maxVM {
		return nil, nil, fmt.Errorf("a VM's name has 1 to %d bytes", maxVM)
	}
	claim, err := r.book.claim(ctx, r.vm, what)
	if err != nil {
		return nil, nil, err
	}
	end = func(res *Result, err *error) {
		c.stepDone()
		c.res.Seconds = seconds(time.Since(c.res.Started))
		*res, *err = c.res, errors.Join(*err, claim.Release(context.WithoutCancel(ctx)))
	}
	if c.under, err = r.book.Load(r.vm); err == nil {
		c.state, err = r.site.State(ctx, r.vm)
	}
	if err != nil {
		end(&c.res, &err)
		return nil, nil, err
	}
	if c.under != nil && c.under.What == what && c.under.Step != stepRunning {
		c.res.Resumed = c.under.Step
	}
	return c, end, nil
}

// step tells what begins.
func (c *call) step(name string) {
	c.stepDone()
	c.res.Steps, c.last = append(c.res.Steps, StepDone{Name: name}), time.Now()
	c.opts.Step(name)
}

func (c *call) stepDone() {
	if n := len(c.res.Steps); n > 0 && c.res.Steps[n-1].Seconds == 0 {
		c.res.Steps[n-1].Seconds = seconds(time.Since(c.last))
	}
}

// write puts a step into the book, before it is done.
func (c *call) write(u UnderWay) error {
	u.VM = c.vm
	if u.Begun.IsZero() {
		u.Begun = time.Now().UTC()
	}
	if err := c.book.save(&u); err != nil {
		return fmt.Errorf("write down what is under way: %w", err)
	}
	c.under = &u
	c.step(u.Step)
	return nil
}

// next is the next step of what is under way.
func (c *call) next(step string) error {
	u := *c.under
	u.Step = step
	return c.write(u)
}

func (c *call) forget() error {
	c.under = nil
	return c.book.forget(c.vm)
}

func (c *call) warn(format string, args ...any) {
	c.res.Warnings = append(c.res.Warnings, fmt.Sprintf(format, args...))
}

// busy is what else is under way.
func (c *call) busy() error {
	u := c.under
	return &UnderWayError{VM: c.vm, What: u.What, Step: u.Step, Begun: u.Begun}
}

// sync makes one point, and lets the oldest go.
func (c *call) sync(ctx context.Context, from Source) (Synced, error) {
	s, err := from.Sync(ctx, c.site, c.vm)
	if err != nil {
		return s, err
	}
	c.res.Syncs = append(c.res.Syncs, s)
	c.res.Point, c.res.Time = s.Point, s.Time
	c.res.Moved += s.Moved
	if s.Backup != nil {
		c.res.Warnings = append(c.res.Warnings, s.Backup.Warnings...)
	}
	return s, nil
}

// keep merges old points. That it cannot loses nothing but room.
func (c *call) keep(ctx context.Context) {
	merged, err := c.site.Keep(ctx, c.vm, c.opts.Keep)
	c.res.Merged = append(c.res.Merged, merged...)
	if err != nil {
		c.warn("old points were not merged: %v", err)
	}
}

// State tells where the replica stands, and what is under way; nil: nothing.
func (r *Replica) State(ctx context.Context) (State, *UnderWay, error) {
	s, err := r.site.State(ctx, r.vm)
	if err != nil {
		return s, nil, err
	}
	u, err := r.book.Load(r.vm)
	return s, u, err
}

// Sync makes a new point of the VM at the site, and merges the oldest, so that as many are left as Options.Keep says. It is
// refused while the replica is failed over, or on its way there or back.
func (r *Replica) Sync(ctx context.Context, from Source) (res Result, err error) {
	c, end, err := r.begin(ctx, "sync")
	if err != nil {
		return Result{VM: r.vm, What: "sync"}, err
	}
	defer end(&res, &err)
	switch {
	case c.under != nil:
		return c.res, c.busy()
	case c.state.Stage != Ready:
		return c.res, &StageError{VM: r.vm, Op: "sync", State: c.state}
	}
	c.step("sync")
	if _, err := c.sync(ctx, from); err != nil {
		return c.res, err
	}
	c.step("keep")
	c.keep(ctx)
	return c.res, nil
}

// candidates are the points to start from, best first: the newest, and those before it.
func (c *call) candidates(ctx context.Context, want string) ([]pipe.PointInfo, error) {
	if want != "" {
		p, err := pointByID(ctx, c.site, c.vm, want)
		return []pipe.PointInfo{p}, err
	}
	list, err := points(ctx, c.site, c.vm)
	if err != nil {
		return nil, err
	}
	out := make([]pipe.PointInfo, 0, len(list))
	for i := len(list) - 1; i >= 0; i-- {
		out = append(out, list[i])
	}
	return out, nil
}
