package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// FailoverOptions change an unplanned failover. Nil and zero fields are good defaults.
type FailoverOptions struct {
	Point string // full id; empty: the newest that is right
	// Source is asked whether the VM still runs. Nil: nobody can be asked.
	Source Machine
	// Force is a person's word that the VM does not run, or that two of it are worth it. Without it a failover is refused
	// unless Source says that the VM is off.
	Force bool
}

// Failover starts the replica without its VM: what the VM wrote since the point is lost, and Result.Age says how much time
// that is. Points that are damaged are passed over, with a warning, unless one is named.
//
// It is refused with a *[TwoError] where the VM may still run. That it cannot be reached proves nothing: it may serve its
// clients on the other side of a broken line.
//
// After a failback that was ended midway it starts the replica again, from the point that was sealed; the original may hold
// a mixture of two states then.
func (r *Replica) Failover(ctx context.Context, opts *FailoverOptions) (res Result, err error) {
	o := FailoverOptions{}
	if opts != nil {
		o = *opts
	}
	c, end, err := r.begin(ctx, unplanned)
	if err != nil {
		return Result{VM: r.vm, What: unplanned}, err
	}
	defer end(&res, &err)
	if c.under != nil && c.state.Stage == FailedOver && (c.under.Step == stepStarting || c.under.Step == stepRunning) && c.under.What != failback {
		if o.Point != "" && o.Point != c.state.Point {
			return c.res, &StageError{VM: r.vm, Op: unplanned, State: c.state}
		}
		return c.res, c.resume(ctx, o.Source, o.Force)
	}
	if c.state.Stage == FailedOver || c.state.Stage == FailingBack {
		return c.res, &StageError{VM: r.vm, Op: unplanned, State: c.state}
	}
	if err := c.mayFailOver(ctx, &o); err != nil {
		return c.res, err
	}
	return c.res, c.fromNewest(ctx, &o)
}

// mayFailOver sees that no second VM would run.
func (c *call) mayFailOver(ctx context.Context, o *FailoverOptions) error {
	switch u := c.under; {
	case u == nil || u.What == unplanned && u.Step == stepStarting:
	case u.What == failback && (u.Step == stepRestoring || u.Step == stepSealing):
		c.warn("the failback that was begun is given up: the original may hold a mixture of two states, do not start it")
		o.Point = "" // what ran is the newest
	case u.What == planned && u.Step != stepUndoing:
		c.warn("the planned failover that was begun is given up for one from a point that there is")
	default:
		return c.busy()
	}
	two := &TwoError{VM: c.vm}
	if o.Source != nil {
		runs, err := o.Source.Running(ctx)
		if err == nil && !runs {
			return nil
		}
		two.Running, two.Err = err == nil, err
	}
	if !o.Force {
		return two
	}
	c.warn("%v: it was forced", two)
	return nil
}

// fromNewest starts the replica from the newest point that is right.
func (c *call) fromNewest(ctx context.Context, o *FailoverOptions) error {
	list, err := c.candidates(ctx, o.Point)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("a point of %s: %w", c.vm, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	begun := time.Now()
	u := UnderWay{What: unplanned, Step: stepStarting, Forced: o.Force}
	for i, p := range list {
		u.Point = p.ID
		if err := c.write(u); err != nil {
			return err
		}
		err := c.site.Failover(ctx, c.vm, p.ID)
		if err == nil {
			c.res.Age = seconds(max(0, begun.Sub(p.Time)))
			return c.started(ctx)
		}
		var bad *DamagedError
		if errors.As(err, &bad) && i < len(list)-1 && c.ready(ctx) {
			c.warn("point %s of %s is damaged, and an older one is taken: %v", p.ID, p.Time.UTC().Format(time.RFC3339), err)
			continue
		}
		if !c.ready(ctx) {
			return &UncertainError{VM: c.vm, Err: err}
		}
		return errors.Join(err, c.forget())
	}
	return nil
}

// ready reports whether the replica is known to be Ready.
func (c *call) ready(ctx context.Context) bool {
	state, err := c.site.State(context.WithoutCancel(ctx), c.vm)
	return err == nil && state.Stage == Ready
}

// UndoOptions change how a failover is undone. Nil and zero fields are good defaults.
type UndoOptions struct {
	// Replica stops the replica. Nil: it must be off.
	Replica Machine
	// Source starts the VM that a planned failover stopped. Nil: a person does.
	Source Machine
}

// Undo ends a failover, and throws away what the replica wrote: it is a replica again, with the points that it had. A VM
// that a planned failover stopped is started again. While the replica runs it is a *hikae.BusyError. A failback that has
// sealed its point cannot be undone: an *[UnderWayError].
func (r *Replica) Undo(ctx context.Context, opts *UndoOptions) (res Result, err error) {
	o := UndoOptions{}
	if opts != nil {
		o = *opts
	}
	c, end, err := r.begin(ctx, "undo")
	if err != nil {
		return Result{VM: r.vm, What: "undo"}, err
	}
	defer end(&res, &err)
	u := c.under
	if u != nil && u.What == failback && (u.Step == stepSealing || u.Step == stepRestoring || u.Step == stepStarting) {
		return c.res, c.busy()
	}
	if u == nil && c.state.Stage == Ready {
		c.res.Already = true
		return c.res, nil
	}
	if u == nil {
		u = &UnderWay{What: unplanned}
	}
	if o.Replica != nil && c.state.Stage == FailedOver {
		c.step("stopping the replica")
		if err := o.Replica.Stop(ctx); err != nil {
			return c.res, fmt.Errorf("stop the replica: %w", err)
		}
	}
	again := *u
	again.Step = stepUndoing
	if u.What == failback { // it had stopped the replica at most
		again.What = unplanned
	}
	c.res.Point = u.Point
	if err := c.mayDiscard(ctx); err != nil {
		return c.res, err
	}
	if err := c.write(again); err != nil {
		return c.res, err
	}
	if err := c.site.Undo(ctx, c.vm); err != nil {
		return c.res, err
	}
	if err := c.startAgain(ctx, o.Source); err != nil {
		return c.res, err
	}
	return c.res, c.forget()
}

// mayDiscard refuses, before anything is written down, where the replica runs.
func (c *call) mayDiscard(ctx context.Context) error {
	if c.state.Stage == Ready {
		return nil
	}
	return c.mustBeOff(ctx)
}

// startAgain starts the VM that a planned failover stopped.
func (c *call) startAgain(ctx context.Context, source Machine) error {
	if c.under.What != planned {
		return nil
	}
	err := ErrByHand
	if source != nil {
		c.step("starting the source again")
		err = source.Start(ctx)
	}
	switch {
	case errors.Is(err, ErrByHand):
		c.warn("%s was stopped for the failover, and nothing runs: start it", c.vm)
	case err != nil:
		return fmt.Errorf("start %s again: %w", c.vm, err)
	}
	return nil
}
