package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// FailbackOptions say how a VM comes home.
type FailbackOptions struct {
	// Replica stops the replica. Nil: it must be off.
	Replica Machine
	// Home writes a point over the original, which is off, or makes a new VM of it: a job.Restore. Only what differs need be
	// written. It is called again where an earlier call was ended midway.
	Home func(ctx context.Context, from pipe.Backend, point pipe.PointInfo) (job.RestoreResult, error)
	// Original is asked whether the original is off, and starts it in the end. Nil: a person does.
	Original Machine
}

// FailbackPlan is what a failback would do. Nothing was touched.
type FailbackPlan struct {
	VM      string    `json:"vm"`
	Step    string    `json:"step,omitempty"` // at which an earlier call was ended; empty: none
	Point   string    `json:"point"`          // that the replica runs from, or that is restored
	Since   time.Time `json:"since,omitzero"` // when the replica was started
	Running string    `json:"running"`        // by what the replica runs; empty: it is off
	Disks   []string  `json:"disks"`
	Bytes   int64     `json:"bytes"` // of all disks
	// Problems are what would stop it.
	Problems []string `json:"problems"`
}

// PlanFailback looks at what a failback would do.
func (r *Replica) PlanFailback(ctx context.Context, opts *FailbackOptions) (FailbackPlan, error) {
	plan := FailbackPlan{VM: r.vm, Disks: []string{}, Problems: []string{}}
	state, under, err := r.State(ctx)
	if err != nil {
		return plan, err
	}
	plan.Point, plan.Since = state.Point, state.Since
	if under != nil && under.What == failback {
		plan.Step = under.Step
		if plan.Point == "" {
			plan.Point = under.Point
		}
	}
	if plan.Point == "" {
		return plan, &StageError{VM: r.vm, Op: failback, State: state}
	}
	p, err := pointByID(ctx, r.site, r.vm, plan.Point)
	if err != nil {
		return plan, err
	}
	for _, d := range p.Disks {
		plan.Disks, plan.Bytes = append(plan.Disks, d.Key), plan.Bytes+d.Size
	}
	if plan.Running, err = r.site.Running(ctx, r.vm); err != nil {
		plan.Problems = append(plan.Problems, fmt.Sprintf("nobody can tell whether the replica runs: %v", err))
	}
	if plan.Running != "" && opts.Replica == nil {
		plan.Problems = append(plan.Problems, "the replica runs, and nobody would stop it")
	}
	if opts.Original != nil {
		switch runs, err := opts.Original.Running(ctx); {
		case err != nil:
			plan.Problems = append(plan.Problems, fmt.Sprintf("nobody can tell whether the original is off: %v", err))
		case runs && plan.Step != stepStarting:
			plan.Problems = append(plan.Problems, "the original runs")
		}
	}
	return plan, nil
}

// Failback brings a VM home: the replica is stopped, what it wrote becomes a point, the point is written over the original,
// and the original starts. The replica is Ready then, and the next sync goes on from that point. Nothing that the replica
// had durable is lost.
//
// A call that was killed is gone on with by the same call. Before the seal Undo gives the failback up, and what the replica
// wrote with it; afterwards Failover starts the replica again, with all that it wrote.
func (r *Replica) Failback(ctx context.Context, opts *FailbackOptions) (res Result, err error) {
	c, end, err := r.begin(ctx, failback)
	if err != nil {
		return Result{VM: r.vm, What: failback}, err
	}
	defer end(&res, &err)
	step, err := c.failbackStep()
	if err != nil {
		return c.res, err
	}
	switch step {
	case stepStopping:
		if err := c.originalIsOff(ctx, opts.Original); err != nil {
			return c.res, err
		}
		if err := c.stopReplica(ctx, opts.Replica); err != nil {
			return c.res, err
		}
		fallthrough
	case stepSealing:
		if err := c.seal(ctx); err != nil {
			return c.res, err
		}
		fallthrough
	case stepRestoring:
		if err := c.home(ctx, opts.Home); err != nil {
			return c.res, err
		}
		fallthrough
	default:
		if err := c.startOriginal(ctx, opts.Original); err != nil {
			return c.res, err
		}
	}
	return c.res, nil
}

// failbackStep is where a failback begins, or goes on.
func (c *call) failbackStep() (string, error) {
	switch u := c.under; {
	case u != nil && u.What == failback && u.Step != stepUndoing:
		return u.Step, nil
	case u != nil && u.Step != stepRunning:
		if c.state.Stage != FailedOver || u.Step != stepStarting {
			return "", c.busy()
		}
	case c.state.Stage == FailingBack: // somebody else has begun to seal it
		return stepSealing, c.write(UnderWay{What: failback, Step: stepSealing, Stopped: time.Now().UTC(), Before: c.state.Point})
	}
	if c.state.Stage != FailedOver {
		return "", &StageError{VM: c.vm, Op: failback, State: c.state}
	}
	return stepStopping, nil
}

// originalIsOff refuses before the replica is stopped for nothing.
func (c *call) originalIsOff(ctx context.Context, original Machine) error {
	if original == nil {
		return nil
	}
	runs, err := original.Running(ctx)
	if err == nil && !runs {
		return nil
	}
	return fmt.Errorf("the original has to be off: %w", &TwoError{VM: c.vm, Running: err == nil, Err: err})
}

func (c *call) stopReplica(ctx context.Context, replica Machine) error {
	if err := c.write(UnderWay{What: failback, Step: stepStopping, Stopped: c.stoppedHere(), Point: c.state.Point}); err != nil {
		return err
	}
	if replica != nil {
		if err := replica.Stop(ctx); err != nil {
			return fmt.Errorf("stop the replica: %w", err)
		}
	}
	return c.mustBeOff(ctx)
}

// stoppedHere is since when nothing runs: of this failback alone, a failover's is over.
func (c *call) stoppedHere() time.Time {
	if c.under != nil && c.under.What == failback {
		return c.stopped()
	}
	return time.Now().UTC()
}

func (c *call) mustBeOff(ctx context.Context) error {
	by, err := c.site.Running(ctx, c.vm)
	if err != nil {
		return fmt.Errorf("nobody can tell whether the replica runs: %w", err)
	}
	if by != "" {
		return &hikae.BusyError{What: "the replica of " + c.vm, Owner: by}
	}
	return nil
}

// seal makes a point of what the replica wrote. A call that was killed after that, and before it was written down, is told
// by the site: it is Ready, with a newer point than before.
func (c *call) seal(ctx context.Context) error {
	u := *c.under
	if u.Step != stepSealing {
		last, err := newest(ctx, c.site, c.vm)
		if err != nil {
			return err
		}
		u.Step, u.Before = stepSealing, last.ID
		if err := c.write(u); err != nil {
			return err
		}
	}
	p, err := pipe.PointInfo{}, error(nil)
	if c.state.Stage == Ready {
		if p, err = newest(ctx, c.site, c.vm); err == nil && p.ID == u.Before {
			err = errors.New("what the replica wrote was discarded by somebody else: undo, and begin anew")
		}
	} else {
		p, err = c.site.Seal(ctx, c.vm)
	}
	if err != nil {
		return fmt.Errorf("make a point of what the replica wrote: %w", err)
	}
	u.Step, u.Point = stepRestoring, p.ID
	return c.write(u)
}

// home writes the sealed point over the original.
func (c *call) home(ctx context.Context, write func(context.Context, pipe.Backend, pipe.PointInfo) (job.RestoreResult, error)) error {
	p, err := pointByID(ctx, c.site, c.vm, c.under.Point)
	if err != nil {
		return err
	}
	c.res.Point, c.res.Time = p.ID, p.Time
	done, err := write(ctx, c.site, p)
	c.res.Restore = &done
	for _, d := range done.Disks {
		c.res.Moved += d.Written
	}
	c.res.Warnings = append(c.res.Warnings, done.Warnings...)
	if err != nil {
		return fmt.Errorf("write the original: %w", err)
	}
	return c.next(stepStarting)
}

// startOriginal is the end of a failback.
func (c *call) startOriginal(ctx context.Context, original Machine) error {
	c.res.Point = c.under.Point
	err := ErrByHand
	if original != nil {
		err = original.Start(ctx)
	}
	switch {
	case errors.Is(err, ErrByHand):
		c.warn("%s is whole, and nothing runs: start it", c.vm)
	case err != nil:
		return fmt.Errorf("the original is whole, and does not start: %w", err)
	}
	if !c.under.Stopped.IsZero() {
		c.res.Down = seconds(time.Since(c.under.Stopped))
	}
	return c.forget()
}
