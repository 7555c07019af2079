package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/hikae/hikae"
)

// ProbeLimit bounds a probe whose context has no deadline.
const ProbeLimit = 10 * time.Second

// OverWay is a way whose channel [Over] makes of what open returns.
func OverWay(kind Kind, open func(ctx context.Context) (hikae.GuestChannel, error), opts *OverOptions) Way {
	return &overWay{kind: kind, open: open, opts: opts}
}

type overWay struct {
	kind Kind
	open func(ctx context.Context) (hikae.GuestChannel, error)
	opts *OverOptions
}

func (w *overWay) Kind() Kind { return w.kind }

func (w *overWay) Open(ctx context.Context) (Channel, error) {
	g, err := w.open(ctx)
	if err != nil {
		var way *WayError
		if errors.As(err, &way) {
			return nil, err
		}
		return nil, &WayError{Kind: w.kind, Step: "connect", Problem: printable(err.Error()), Err: err}
	}
	c, err := Over(ctx, w.kind, g, w.opts)
	if err != nil {
		g.Close()
	}
	return c, err
}

func (w *overWay) Probe(ctx context.Context) Finding { return ProbeByOpening(ctx, w) }

// ProbeByOpening is the probe of a way whose Open leaves nothing in the guest: it opens it, notes what the channel learned,
// and closes it. A way that is open but whose account is no administrator's says so in Problem and Hint: a component can be
// brought in, and will not be able to freeze.
func ProbeByOpening(ctx context.Context, w Way) Finding {
	ctx, cancel := bounded(ctx, ProbeLimit)
	defer cancel()
	start := time.Now()
	f := Finding{Kind: w.Kind()}
	c, err := w.Open(ctx)
	f.Millis = time.Since(start).Milliseconds()
	if err != nil {
		f.closed(err)
		return f
	}
	f.Open, f.Reached, f.System = true, true, c.System()
	if !f.System.Admin {
		f.Step, f.Problem = "rights", "the account "+f.System.User+" is no administrator: nothing can be frozen"
		f.Hint = "use root, or let the account run sudo without a password; on Windows a member of Administrators"
	}
	c.Close()
	return f
}

func (f *Finding) closed(err error) {
	way := &WayError{Step: "connect", Problem: printable(err.Error())}
	errors.As(err, &way)
	f.Step, f.Problem, f.Hint = way.Step, way.Problem, way.Hint
	if f.Problem == "" {
		f.Problem = printable(err.Error())
	}
	var dns *net.DNSError
	unreached := way.Step == "connect" || way.Step == "resolve" || errors.As(err, &dns) || errors.Is(err, os.ErrNotExist)
	f.Reached = !unreached
}
