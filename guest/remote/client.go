package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// ClientOptions say which proxy to talk to, and as whom. Address, ServerPin and Identity are needed, or Dial; zero fields
// are good defaults.
type ClientOptions struct {
	Name      string          // of the proxy, for errors. Empty: Address
	Address   string          // HOST:PORT of its mover
	ServerPin trust.Pin       // the one key that it may have
	Identity  *trust.Identity // this machine's own key, enrolled there as guest or full

	// Lease is how long a task outlives a silence of ours on the proxy, 10 s to 1 h. Zero: 5 min.
	Lease time.Duration
	// Dial connects in place of Address, ServerPin and Identity: both sides have shown then who they are.
	Dial func(ctx context.Context) (net.Conn, error)
	// Sleep waits between two attempts. Nil: by the clock.
	Sleep func(ctx context.Context, d time.Duration) error
	// Reconnecting is told of each attempt to reach the proxy again, from 1. Nil: nobody is.
	Reconnecting func(guest string, attempt int, why error)
}

// Client is the backup server's side of a guest interaction proxy. Each call is a task of its own; calls may be made at
// once, from any goroutines.
type Client struct {
	opts ClientOptions

	mu    sync.Mutex
	tasks map[*session]struct{}
	shut  bool
}

// NewClient knows a proxy. It connects with the first call.
func NewClient(opts *ClientOptions) (*Client, error) {
	if opts == nil || opts.Dial == nil && (opts.Address == "" || opts.Identity == nil || opts.ServerPin == trust.Pin{}) {
		return nil, fmt.Errorf("a proxy needs its address and its pin, and a key of ours: %w", fs.ErrInvalid)
	}
	o := *opts
	o.Name = cmp.Or(o.Name, o.Address, "proxy")
	o.Lease = min(max(cmp.Or(o.Lease, defaultLease), leastLease), mostLease)
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	c := &Client{opts: o, tasks: map[*session]struct{}{}}
	if o.Dial == nil {
		c.opts.Dial = c.dial
	}
	return c, nil
}

// Name is what the proxy is called.
func (c *Client) Name() string { return c.opts.Name }

// connectTime bounds one attempt to connect, with all that is said before the first request.
const connectTime = 15 * time.Second

// dial connects over TLS. Somebody else at that address, or one who does not know us, is not a broken link.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.opts.Address)
	if err != nil {
		return nil, err
	}
	return trust.Connect(ctx, raw, trust.ClientTLS(c.opts.Identity, c.opts.ServerPin, ALPN))
}

// Close ends every task: what was deployed is taken away by the proxy. It waits until the proxies have heard of it, a few
// seconds at most.
func (c *Client) Close() error {
	c.mu.Lock()
	c.shut = true
	var all []*session
	for s := range c.tasks {
		all = append(all, s)
	}
	c.mu.Unlock()
	for _, s := range all {
		s.leave()
	}
	for _, s := range all {
		s.wait(leaveTime)
	}
	return nil
}

// leaveTime bounds the wait for the proxy's word that a task is over.
const leaveTime = 5 * time.Second

// Way is one way into a guest, as a proxy is told of it.
type Way struct {
	Kind guest.Kind
	// Settings are the kind's own, as JSON: what the proxy's [Ways] has for that kind reads them. Nil: null.
	Settings any
	// Credential goes to the proxy for the time of the task.
	Credential guest.Credential
}

func argsOf(ways []Way) ([]wayArgs, error) {
	out := make([]wayArgs, len(ways))
	for i, w := range ways {
		settings, err := json.Marshal(w.Settings)
		if err != nil {
			return nil, fmt.Errorf("settings for %s: %w", w.Kind, err)
		}
		out[i] = wayArgs{Kind: w.Kind, Settings: settings, Credential: secretOf(w.Credential)}
	}
	return out, checkWays(out)
}

// Status asks how the proxy is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := &Status{}
	return out, c.once(ctx, "", verbStatus, statusArgs{}, out)
}

// Probe has the proxy look which ways into a guest are open, each within limit (zero: 10 s).
func (c *Client) Probe(ctx context.Context, name string, ways []Way, limit time.Duration) ([]guest.Finding, error) {
	args, err := argsOf(ways)
	if err != nil {
		return nil, err
	}
	a := &probeAnswer{}
	err = c.once(ctx, name, verbProbe, probeArgs{Guest: name, Ways: args, LimitMillis: limit.Milliseconds()}, a)
	if err == nil && len(a.Findings) != len(ways) {
		err = fmt.Errorf("%w: %d findings for %d ways", ErrMalformed, len(a.Findings), len(ways))
	}
	if err != nil {
		return nil, err
	}
	for i := range a.Findings {
		a.Findings[i] = cleaned(a.Findings[i], ways[i].Kind)
	}
	return a.Findings, nil
}

// cleaned is a finding fit to be shown: its words come from far away.
func cleaned(f guest.Finding, kind guest.Kind) guest.Finding {
	f.Kind, f.Step = kind, guest.Printable(f.Step, maxName)
	f.Problem, f.Hint = guest.Printable(f.Problem, maxWords), guest.Printable(f.Hint, maxWords)
	f.System = cleanedSystem(f.System)
	return f
}

func cleanedSystem(s guest.System) guest.System {
	s.OS, s.Arch = guest.Printable(s.OS, 64), guest.Printable(s.Arch, 64)
	s.Name, s.User = guest.Printable(s.Name, maxName), guest.Printable(s.User, maxName)
	return s
}

// Sweep has the proxy take away what its dead processes left in a guest, over ways of the kinds that they came by. left
// are those that it could not, for the lack of a way.
func (c *Client) Sweep(ctx context.Context, name string, ways []Way) (undone, left int, err error) {
	args, err := argsOf(ways)
	if err != nil {
		return 0, 0, err
	}
	a := &sweepAnswer{}
	err = c.once(ctx, name, verbSweep, sweepArgs{Guest: name, Ways: args}, a)
	return a.Undone, a.Left, err
}

// once is a task of one request.
func (c *Client) once(ctx context.Context, name string, v verb, args, out any) error {
	s, err := c.begin(ctx, name)
	if err != nil {
		return err
	}
	defer s.leave()
	return s.call(ctx, v, args, out)
}

// begin begins a task: it connects, once. A proxy that cannot be reached is told at once, so that somebody else takes
// over (R169).
func (c *Client) begin(ctx context.Context, name string) (*session, error) {
	s := newSession(c, name)
	c.mu.Lock()
	shut := c.shut
	c.tasks[s] = struct{}{}
	c.mu.Unlock()
	err := fmt.Errorf("client of proxy %s: %w", c.opts.Name, fs.ErrClosed)
	if !shut {
		err = s.open(ctx)
	}
	if err != nil {
		c.forget(s)
		return nil, err
	}
	return s, nil
}

func (c *Client) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tasks, s)
}

// DeployOptions are how a component is brought in. Nil and zero fields are good defaults.
type DeployOptions struct {
	Session string        // for the component's log
	Limit   time.Duration // of the deployment. Zero: the proxy's, 5 min
	// Lease is how long the component lives without hearing from us. Zero: 10 min, so that it outlives the attempts to
	// reach the proxy again. The link between proxy and guest needs no lease: its end is the component's.
	Lease time.Duration
	// Reconnects is how often the proxy may make its link to the guest anew; it is told how many are left. Nil: once (R190).
	Reconnects *int
}

func (o *DeployOptions) reconnects() int {
	if o.Reconnects == nil {
		return ToGuest.Reconnects()
	}
	return max(0, min(*o.Reconnects, ToGuest.Reconnects()))
}

func (o *DeployOptions) spent(n int) {
	if o.Reconnects != nil {
		*o.Reconnects -= max(0, min(n, *o.Reconnects))
	}
}

// componentLease is more than the longest that ten reconnects take.
const componentLease = 10 * time.Minute

// Deploy has the proxy bring a component into a guest, over the first of the ways that takes it, and speaks to it. What
// comes out is like what [guest.Deploy] gives; its Remove is carried out, and proven, by the proxy. Where ctx ends before,
// the proxy takes away what it has made. Errors are *guest.StepError, with a [TaskError] in it where a link failed.
func (c *Client) Deploy(ctx context.Context, name string, ways []Way, opts *DeployOptions) (*guest.Deployed, error) {
	o := DeployOptions{}
	if opts != nil {
		o = *opts
	}
	d, err := c.deploy(ctx, name, ways, &o)
	if err != nil {
		return nil, &guest.StepError{Guest: name, Step: "deploy", Err: err}
	}
	return d, nil
}

func (c *Client) deploy(ctx context.Context, name string, ways []Way, o *DeployOptions) (*guest.Deployed, error) {
	args, err := argsOf(ways)
	if err != nil {
		return nil, err
	}
	s, err := c.begin(ctx, name)
	if err != nil {
		return nil, err
	}
	a := &deployAnswer{}
	stream := s.carry()
	err = s.call(ctx, verbDeploy, deployArgs{Guest: name, Session: o.Session, Ways: args, LimitMillis: o.Limit.Milliseconds(), Reconnects: o.reconnects()}, a)
	if err != nil {
		if broken, ok := errors.AsType[*TaskError](err); ok && broken.Link == ToGuest {
			o.spent(broken.Reconnects)
		}
		s.leave()
		return nil, err
	}
	component, err := guest.Dial(ctx, stream, &guest.ComponentOptions{Session: o.Session, Lease: cmp.Or(o.Lease, componentLease)})
	if err != nil {
		err = errors.Join(fmt.Errorf("greet the component by proxy %s: %w", c.opts.Name, err), s.broken())
		err = errors.Join(err, s.remove(context.WithoutCancel(ctx)))
		s.leave() // also where it could not be removed: the proxy goes on with that, and keeps no credential for us
		return nil, err
	}
	o.spent(a.Reconnects)
	return guest.NewDeployed(component, a.Kind, func(ctx context.Context) error {
		_, _ = component.Remove(ctx) // whether it did so is looked for
		_ = component.Close()
		return s.remove(ctx)
	}), nil
}
