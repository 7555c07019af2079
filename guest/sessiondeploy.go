package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Deployer reaches one guest from one machine: this one ([Here]), or a guest interaction proxy. An error that is about
// the machine itself makes a session go on with the next one (R169, R170).
type Deployer interface {
	// Name is what reports call the machine.
	Name() string
	// Probe looks which ways into the guest are open from there.
	Probe(ctx context.Context) (*Report, error)
	// Deploy brings the runtime component in over the first of these kinds that takes it. On an error it has taken away
	// what it made, or the error is ErrLeftover.
	Deploy(ctx context.Context, kinds []Kind, opts *DeployOptions) (*Deployed, error)
}

// PersistentDeployer is an optional ability of a [Deployer]: it reaches the guest's installer service.
type PersistentDeployer interface {
	Deployer
	Persistent() Persistent // nil: none is set up
}

// Reconnects is how often a broken link to a guest is tried anew before the guest's task fails (R190).
const Reconnects = 1

// reconnectWait is how long to wait before that: the link may be the network's, and that takes a moment.
const reconnectWait = time.Second

// Here deploys from this machine.
type Here struct {
	Machine  string // in reports. Empty: "backup server"
	Guest    string
	Ways     []Way // one of each kind
	Programs Programs
	Persist  Persistent    // nil: none is set up
	Timeout  time.Duration // of each probe. Zero: 10 s
}

var _ PersistentDeployer = (*Here)(nil)

// Name implements [Deployer].
func (h *Here) Name() string {
	if h.Machine == "" {
		return "backup server"
	}
	return h.Machine
}

// Persistent implements [PersistentDeployer].
func (h *Here) Persistent() Persistent { return h.Persist }

// Probe implements [Deployer].
func (h *Here) Probe(ctx context.Context) (*Report, error) {
	return Probe(ctx, h.Guest, h.Ways, &ProbeOptions{Timeout: h.Timeout, Persistent: h.Persist}), nil
}

// Deploy implements [Deployer]. The channel closes with the component's removal. A link that breaks is made anew, once
// (R190).
func (h *Here) Deploy(ctx context.Context, kinds []Kind, opts *DeployOptions) (*Deployed, error) {
	reconnects := Reconnects
	if opts != nil && opts.Reconnects != nil {
		return h.deployWith(ctx, kinds, opts, opts.Reconnects)
	}
	return h.deployWith(ctx, kinds, opts, &reconnects)
}

// deployWith takes what it needs from the reconnects that are left.
func (h *Here) deployWith(ctx context.Context, kinds []Kind, opts *DeployOptions, reconnects *int) (*Deployed, error) {
	errs := []error{}
	for _, k := range kinds {
		i := slices.IndexFunc(h.Ways, func(w Way) bool { return w.Kind() == k })
		if i < 0 {
			continue
		}
		d, err := h.deploy(ctx, h.Ways[i], opts, reconnects)
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
		if errors.Is(err, ErrLeftover) || ctx.Err() != nil {
			break // another way might hide what is left
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, &StepError{Guest: h.Guest, Step: "deploy", Err: errors.Join(append([]error{ErrNoWay}, errs...)...)}
}

// deploy goes one way, and again where the link broke.
func (h *Here) deploy(ctx context.Context, way Way, opts *DeployOptions, reconnects *int) (*Deployed, error) {
	o := DeployOptions{}
	if opts != nil {
		o = *opts
	}
	o.Guest, o.Way = h.Guest, way
	for {
		d, err := h.attempt(ctx, way, &o)
		if err == nil || *reconnects == 0 || !LinkBroke(err) || errors.Is(err, ErrLeftover) || pause(ctx, reconnectWait) != nil {
			return d, err
		}
		*reconnects--
	}
}

func (h *Here) attempt(ctx context.Context, way Way, opts *DeployOptions) (*Deployed, error) {
	ch, err := way.Open(ctx)
	if err != nil {
		return nil, &StepError{Guest: h.Guest, Step: "connect", Err: err}
	}
	d, err := Deploy(ctx, ch, h.Programs, opts)
	if err != nil {
		return nil, errors.Join(err, ignoreClosed(ch.Close()))
	}
	out := NewDeployed(d.Component, d.Kind, func(ctx context.Context) error {
		err := d.Remove(ctx)
		if err == nil {
			_ = ch.Close() // it was looked for and is gone: how its link ends is no matter
		}
		return err
	})
	out.Program = d.Program
	return out, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// pause waits, unless the context ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// usePersistent begins a session with the persistent component.
func usePersistent(ctx context.Context, p Persistent, install bool, opts *DeployOptions) (*Deployed, error) {
	if install {
		if err := p.Install(ctx); err != nil {
			return nil, &StepError{Guest: opts.Guest, Step: "install", Err: err}
		}
	}
	stream, err := p.Open(ctx)
	if err != nil {
		return nil, &StepError{Guest: opts.Guest, Step: "connect", Err: err}
	}
	c, err := Dial(ctx, stream, &ComponentOptions{Session: opts.Session, Lease: opts.Lease})
	var version *VersionError
	if errors.As(err, &version) && !install { // one of another version is replaced, never talked to
		return usePersistent(ctx, p, true, opts)
	}
	if err != nil {
		return nil, &StepError{Guest: opts.Guest, Step: "connect", Err: fmt.Errorf("persistent component: %w", err)}
	}
	// It stays; what ends is the process that it had for us.
	return NewDeployed(c, Direct, func(context.Context) error { return c.Close() }), nil
}
