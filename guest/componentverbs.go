package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Limits of calls whose context has no deadline, on top of what their arguments allow the component.
const (
	verbLimit   = time.Minute
	answerLimit = 30 * time.Second
	dataLimit   = 12 * time.Hour
	indexLimit  = 30 * time.Minute
	stallLimit  = time.Minute // without data of an index
	endLimit    = 10 * time.Second
)

// Bounds of what a guest may send in one call, in bytes.
const (
	MaxIndex = 4 << 30
	MaxLog   = 64 << 30
)

// Inspect looks at file systems, scripts, and applications where args say so.
func (c *Component) Inspect(ctx context.Context, args wire.InspectArgs) (wire.InspectAnswer, error) {
	return invoke[wire.InspectAnswer](ctx, c, verbLimit, wire.Inspect, args)
}

// Prepare gets applications ready for a freeze. Each has an Outcome; an error means that nothing was begun.
func (c *Component) Prepare(ctx context.Context, args wire.PrepareArgs) (wire.PrepareAnswer, error) {
	return invoke[wire.PrepareAnswer](ctx, c, orDefault(args.LimitMillis, time.Minute)+answerLimit, wire.Prepare, args)
}

// Freeze freezes. On an error nothing is frozen, or soon will not be; Thaw is called all the same. See [Component.Quiesce].
func (c *Component) Freeze(ctx context.Context, args wire.FreezeArgs) (wire.FreezeAnswer, error) {
	limit := verbLimit
	if args.Scripts {
		limit += orDefault(args.ScriptMillis, 10*time.Minute)
	}
	return invoke[wire.FreezeAnswer](ctx, c, limit, wire.Freeze, args)
}

// Thaw thaws. Thawing what is not frozen is no error.
func (c *Component) Thaw(ctx context.Context) (wire.ThawAnswer, error) {
	return invoke[wire.ThawAnswer](ctx, c, verbLimit, wire.Thaw, wire.ThawArgs{})
}

// Finish ends what Prepare began, after the thaw, and returns what a restore needs.
func (c *Component) Finish(ctx context.Context, args wire.FinishArgs) (wire.FinishAnswer, error) {
	return invoke[wire.FinishAnswer](ctx, c, orDefault(args.LimitMillis, time.Minute)+answerLimit, wire.Finish, args)
}

// Settle tells applications whether the restore point is durable, and lets them go.
func (c *Component) Settle(ctx context.Context, args wire.SettleArgs) (wire.SettleAnswer, error) {
	return invoke[wire.SettleAnswer](ctx, c, 2*verbLimit, wire.Settle, args)
}

// Index writes an index of the guest's files. What is longer than MaxIndex is an error, and one that takes more than
// 30 min, or sends nothing for a minute, is [ErrStalled]: the host's snapshot waits for it. Time that to takes is not the
// guest's.
func (c *Component) Index(ctx context.Context, args wire.IndexArgs, to io.Writer) (a wire.IndexAnswer, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, indexLimit, fmt.Errorf("%w: it took more than %v", ErrStalled, indexLimit))
	defer cancel()
	ctx, stall := context.WithCancelCause(ctx)
	defer stall(nil)
	timer := time.AfterFunc(stallLimit, func() { stall(fmt.Errorf("%w: nothing came for %v", ErrStalled, stallLimit)) })
	defer timer.Stop()
	raw, err := c.call(ctx, indexLimit, wire.Index, args, &capped{&timed{to, timer}, MaxIndex}, nil)
	if err == nil {
		err = c.decode(wire.Index, raw, &a)
	}
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrStalled) {
		err = fmt.Errorf("%s: %w", wire.Index, cause)
	}
	return a, err
}

// ErrStalled says that a guest's data did not come, or not to an end, in the time that there is for it.
var ErrStalled = errors.New("the guest's data stalled")

// timed stops a timer while data is taken, and begins it anew after that.
type timed struct {
	w     io.Writer
	timer *time.Timer
}

func (t *timed) Write(p []byte) (int, error) {
	t.timer.Stop()
	defer t.timer.Reset(stallLimit)
	return t.w.Write(p)
}

// Logs lists the transaction logs of an application.
func (c *Component) Logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error) {
	return invoke[wire.LogsAnswer](ctx, c, 2*verbLimit, wire.Logs, args)
}

// Fetch writes one log that Logs listed. What is longer than MaxLog is an error; the caller checks the hash.
func (c *Component) Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (a wire.FetchAnswer, err error) {
	raw, err := c.call(ctx, dataLimit, wire.Fetch, args, &capped{to, MaxLog}, nil)
	if err == nil {
		err = c.decode(wire.Fetch, raw, &a)
	}
	return a, err
}

// Shipped says that logs are stored safely.
func (c *Component) Shipped(ctx context.Context, args wire.ShippedArgs) error {
	_, err := invoke[wire.ShippedAnswer](ctx, c, 2*verbLimit, wire.Shipped, args)
	return err
}

// Install sends a signed package.
func (c *Component) Install(ctx context.Context, args wire.InstallArgs, from io.Reader) (a wire.InstallAnswer, err error) {
	raw, err := c.call(ctx, 30*time.Minute, wire.Install, args, nil, from)
	if err == nil {
		err = c.decode(wire.Install, raw, &a)
	}
	return a, err
}

// Enrol puts our key in place of the temporary one.
func (c *Component) Enrol(ctx context.Context, args wire.EnrolArgs) (wire.EnrolAnswer, error) {
	return invoke[wire.EnrolAnswer](ctx, c, verbLimit, wire.Enrol, args)
}

// Remove makes the component take itself away and waits until it has ended the link, 10 s at most after its answer.
// Whether nothing is left is for the channel to prove.
func (c *Component) Remove(ctx context.Context) (wire.RemoveAnswer, error) {
	a, err := invoke[wire.RemoveAnswer](ctx, c, 2*verbLimit, wire.Remove, wire.RemoveArgs{})
	if err != nil {
		return a, err
	}
	c.awaitEnd(ctx)
	return a, c.Close()
}

// awaitEnd waits until the component does not answer any more. A link made of single runs has no end of its own, so it is
// asked.
func (c *Component) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := invoke[wire.LeaseAnswer](ctx, c, endLimit, wire.Lease, wire.LeaseArgs{}); errors.Is(err, ErrLost) {
			return
		}
		select {
		case <-c.lost:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// orDefault is a limit in an argument's milliseconds, or what the component takes where there is none.
func orDefault(millis int64, otherwise time.Duration) time.Duration {
	if millis <= 0 {
		return otherwise
	}
	return time.Duration(millis) * time.Millisecond
}

// capped refuses to write more than so many bytes.
type capped struct {
	w    io.Writer
	left int64
}

func (b *capped) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, fmt.Errorf("%w: the guest sends more than it may", wire.ErrMalformed)
	}
	b.left -= int64(len(p))
	return b.w.Write(p)
}
