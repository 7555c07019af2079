package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// ErrLost says that the link to a component broke, or that it was not heard of for the time of its lease. Whether a call
// that was open was carried out is not known; the component thaws and ends by itself.
var ErrLost = errors.New("the component in the guest was lost")

// VersionError says that a component is of another version: it is replaced, never talked to.
type VersionError struct {
	Theirs, Ours int
	Product      string // theirs
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the component in the guest (%.100q) speaks version %d of the protocol, we speak %d", e.Product, e.Theirs, e.Ours)
}

// ComponentOptions change how a component is talked to. Nil and zero fields are good defaults.
type ComponentOptions struct {
	Session string        // for the component's log
	Lease   time.Duration // how long the component lives without hearing from us, 1 s to 1 h. Zero: 60 s
}

const (
	defaultLease = time.Minute
	minLease     = time.Second
	maxLease     = time.Hour
	helloLimit   = 30 * time.Second
)

// Component is a component that runs in a guest, seen from outside. Its methods may be called by several goroutines; of
// more than wire.MaxCalls calls the rest wait. A failure that the component tells is a *wire.Failure; a link that broke is
// ErrLost. The lease is kept until Close.
type Component struct {
	stream  io.ReadWriteCloser
	hello   wire.HelloAnswer
	lease   time.Duration
	slots   chan struct{} // one is taken by each call that is open there
	writing chan struct{} // is taken by who writes; it also orders the numbers of requests
	next    uint32

	mu    sync.Mutex
	calls map[uint32]*pending
	sent  time.Time // the last frame of ours
	err   error

	lost    chan struct{} // closed with err set
	workers sync.WaitGroup
}

// Dial begins a session with a component at the other end of a stream, which it owns from now on, also on an error. The
// context bounds the beginning alone, which takes 30 s at most. A component of another version is a *VersionError.
func Dial(ctx context.Context, stream io.ReadWriteCloser, opts *ComponentOptions) (*Component, error) {
	if opts == nil {
		opts = &ComponentOptions{}
	}
	c := &Component{
		stream: stream, lease: opts.Lease, slots: make(chan struct{}, wire.MaxCalls),
		writing: make(chan struct{}, 1), calls: map[uint32]*pending{}, sent: time.Now(), lost: make(chan struct{}),
	}
	if c.lease == 0 {
		c.lease = defaultLease
	}
	c.lease = min(max(c.lease, minLease), maxLease)
	c.workers.Go(c.read)
	if err := c.greet(ctx, opts.Session); err != nil {
		c.Close()
		return nil, err
	}
	c.workers.Go(c.keep)
	return c, nil
}

// greet says hello. The version is looked at first: what else another version says may have any form.
func (c *Component) greet(ctx context.Context, session string) error {
	args := wire.HelloArgs{Version: wire.Version, Session: session, LeaseMillis: c.lease.Milliseconds()}
	raw, err := c.call(ctx, helloLimit, wire.Hello, args, nil, nil)
	if err != nil {
		return err
	}
	theirs := wire.PeekVersion(raw)
	if theirs != wire.Version {
		return &VersionError{Theirs: theirs, Ours: wire.Version}
	}
	return wire.Decode(raw, &c.hello)
}

// Hello is what the component said of itself.
func (c *Component) Hello() wire.HelloAnswer { return c.hello }

// Has says whether the component has a verb.
func (c *Component) Has(v wire.Verb) bool {
	for _, has := range c.hello.Verbs {
		if has == v {
			return true
		}
	}
	return false
}

// Done is closed when the link is gone, by Close too.
func (c *Component) Done() <-chan struct{} { return c.lost }

// Err says why the link is gone; nil while it is not.
func (c *Component) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the session and the link. The component thaws, lets applications go and, if it is of the runtime kind, takes
// itself away; Remove does that too and waits for it.
func (c *Component) Close() error {
	c.lose(fmt.Errorf("%w: it was closed", ErrLost))
	c.workers.Wait()
	return nil
}

// lose ends the link. The first reason counts.
func (c *Component) lose(reason error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = reason
		close(c.lost)
	}
	calls := c.calls
	c.calls = map[uint32]*pending{}
	c.mu.Unlock()
	for _, p := range calls {
		p.end(nil, reason)
	}
	if first {
		c.stream.Close()
	}
}

// read takes what the component sends, until the link is gone.
func (c *Component) read() {
	r := bufio.NewReaderSize(c.stream, 64<<10)
	for {
		f, err := wire.Read(r)
		if err == nil {
			err = c.take(f)
		}
		if err != nil {
			c.lose(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
	}
}

// take gives a frame to its call.
func (c *Component) take(f wire.Frame) error {
	c.mu.Lock()
	p, future := c.calls[f.Call], f.Call > c.next
	if p != nil && (f.Kind == wire.KindAnswer || f.Kind == wire.KindFailure) {
		delete(c.calls, f.Call)
	}
	c.mu.Unlock()
	if future {
		return fmt.Errorf("%w: call %d has not begun", wire.ErrMalformed, f.Call)
	}
	if p == nil { // it has ended
		return nil
	}
	err := p.take(f)
	if err != nil { // it may not be among the calls any more
		p.end(nil, fmt.Errorf("%w: %w", ErrLost, err))
	}
	return err
}

// keep renews the lease while nothing else is sent.
func (c *Component) keep() {
	tick := time.NewTicker(c.lease / 6)
	defer tick.Stop()
	for {
		select {
		case <-c.lost:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		idle := time.Since(c.sent)
		c.mu.Unlock()
		if idle < c.lease/3 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.lease)
		_, err := invoke[wire.LeaseAnswer](ctx, c, c.lease, wire.Lease, wire.LeaseArgs{})
		cancel()
		if err != nil {
			c.lose(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
	}
}

// write sends a frame. It returns when the context ends; a frame that has begun by then is sent all the same, by itself,
// or is the end of the link: half a frame would be read as another.
func (c *Component) write(ctx context.Context, f wire.Frame) error {
	return c.writeNext(ctx, func() (wire.Frame, error) { return f, nil })
}

// writeNext sends what next makes when it is its turn.
func (c *Component) writeNext(ctx context.Context, next func() (wire.Frame, error)) error {
	select {
	case c.writing <- struct{}{}:
	case <-c.lost:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	f, err := next()
	if err != nil {
		<-c.writing
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-c.writing }()
		done <- c.send(f)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send writes to the stream. A component that takes nothing for the time of its lease is lost.
func (c *Component) send(f wire.Frame) error {
	late := time.AfterFunc(c.lease, func() { c.lose(fmt.Errorf("%w: it took nothing for %v", ErrLost, c.lease)) })
	defer late.Stop()
	if err := wire.Write(c.stream, f); err != nil {
		c.lose(fmt.Errorf("%w: %w", ErrLost, err))
		return c.Err() // of two ends the first has the reason
	}
	c.mu.Lock()
	c.sent = time.Now()
	c.mu.Unlock()
	return nil
}

// tell sends a frame for a call whose own context may be over.
func (c *Component) tell(f wire.Frame) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.lease)
	defer cancel()
	return c.write(ctx, f)
}
