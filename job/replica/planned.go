package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
)

// PlannedFailover moves a VM to its replica, and loses nothing: a point is made while the VM runs; then it is stopped, a
// last one is made of what changed meanwhile, and the replica starts from it. Where anything fails before the replica
// started, the VM is started again; whether that went well is told by the error: an *[OffError], or an *[UncertainError]
// where it was not tried, since the replica may run.
//
// The source must read the VM itself: the last point has to be of a VM that is off, else a *[NotOfflineError].
//
// A call that was killed is gone on with by the same call, or undone by Undo.
func (r *Replica) PlannedFailover(ctx context.Context, from Source, source Machine) (res Result, err error) {
	c, end, err := r.begin(ctx, planned)
	if err != nil {
		return Result{VM: r.vm, What: planned}, err
	}
	defer end(&res, &err)
	switch {
	case c.under != nil && c.under.What == planned && c.state.Stage == FailedOver && (c.under.Step == stepStarting || c.under.Step == stepRunning):
		return c.res, c.resume(ctx, source, false)
	case c.under != nil && (c.under.What != planned || c.under.Step == stepRunning || c.under.Step == stepUndoing):
		return c.res, c.busy()
	case c.state.Stage == FailedOver || c.state.Stage == FailingBack:
		return c.res, &StageError{VM: r.vm, Op: planned, State: c.state}
	}
	if c.under == nil { // else it may be off already, and waits
		c.step("sync")
		if _, err := c.sync(ctx, from); err != nil {
			return c.res, err
		}
	}
	if err := c.write(UnderWay{What: planned, Step: stepStopping, Stopped: c.stopped()}); err != nil {
		return c.res, err
	}
	if err := c.over(ctx, from, source); err != nil {
		return c.res, c.back(ctx, source, err)
	}
	return c.res, nil
}

// stopped is since when nothing runs: an earlier call may have stopped the VM.
func (c *call) stopped() time.Time {
	if c.under != nil && !c.under.Stopped.IsZero() {
		return c.under.Stopped
	}
	return time.Now().UTC()
}

// over stops the source, makes the last point, and starts the replica from it.
func (c *call) over(ctx context.Context, from Source, source Machine) error {
	if err := source.Stop(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", c.vm, err)
	}
	if err := c.next(stepLastSync); err != nil {
		return err
	}
	last, err := c.sync(ctx, from)
	if err != nil {
		return fmt.Errorf("the last sync: %w", err)
	}
	if !last.Direct || last.Consistency != hikae.Offline.String() {
		return &NotOfflineError{VM: c.vm, Reached: last.Consistency}
	}
	u := *c.under
	u.Step, u.Point = stepStarting, last.Point
	if err := c.write(u); err != nil {
		return err
	}
	if err := c.site.Failover(ctx, c.vm, last.Point); err != nil {
		return fmt.Errorf("start the replica: %w", err)
	}
	return c.started(ctx)
}

// resume is the end of a failover that an earlier call had brought so far: the replica runs, or is started again on what it
// wrote.
func (c *call) resume(ctx context.Context, source Machine, force bool) error {
	by, err := c.site.Running(ctx, c.vm)
	if err != nil {
		return fmt.Errorf("nobody can tell whether the replica runs: %w", err)
	}
	c.res.Already = c.under.Step == stepRunning
	if by == "" {
		if source != nil && !force { // that it was off then says nothing of now
			if runs, err := source.Running(ctx); err == nil && runs {
				return &TwoError{VM: c.vm, Running: true}
			}
		}
		c.step("starting the replica again")
		if err := c.site.Resume(ctx, c.vm); err != nil {
			return fmt.Errorf("start the replica again: %w", err)
		}
	}
	return c.started(ctx)
}

// started is the end of a failover: the replica runs.
func (c *call) started(ctx context.Context) error {
	c.res.Point = c.under.Point
	p, err := pointByID(ctx, c.site, c.vm, c.under.Point)
	if err == nil {
		c.res.Time = p.Time
	}
	if c.under.Step == stepRunning {
		return nil
	}
	if !c.under.Stopped.IsZero() {
		c.res.Down = seconds(time.Since(c.under.Stopped))
	}
	return c.next(stepRunning)
}

// back starts the source again, after a failover that did not come to the replica's start.
func (c *call) back(ctx context.Context, source Machine, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Undone)
	defer cancel()
	state, err := c.site.State(ctx, c.vm)
	if err != nil || state.Stage != Ready && state.Stage != FailingOver {
		return &UncertainError{VM: c.vm, Err: errors.Join(why, err)}
	}
	if state.Stage == FailingOver {
		if err := c.site.Undo(ctx, c.vm); err != nil {
			return &UncertainError{VM: c.vm, Err: errors.Join(why, err)}
		}
	}
	c.step("starting the source again")
	if err := source.Start(ctx); err != nil {
		return &OffError{VM: c.vm, Err: why, Start: err}
	}
	if err := c.forget(); err != nil {
		return errors.Join(why, err)
	}
	return why
}
