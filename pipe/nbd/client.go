package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options change how a client works. Nil and zero fields are good defaults.
type Options struct {
	// Contexts are the metadata contexts to ask for beside base:allocation, such as "qemu:dirty-bitmap:NAME". Those that
	// the server has are in [Client.Contexts].
	Contexts []string
	// TLS is how to talk to a server that must use TLS. Nil: by the certificates that the URI names, or for a URI
	// without TLS in the clear. Where it is set, TLS is required whatever the URI says.
	TLS *tls.Config
	// Connections is the most connections at a time, where the server allows several. Zero: 4.
	Connections int
	// InFlight is the most requests on one connection that wait for their answers. Zero: 16.
	InFlight int
	// RequestBytes is the longest read or write in one request, within what the server takes. Zero: 1 MiB.
	RequestBytes int
	// Timeout is the longest silence of a server that owes answers, and the longest handshake. Zero: 30 s. One answer
	// takes at most four times as long, while others arrive.
	Timeout time.Duration
	// Reconnect is how long a request may wait for a new connection, where the last one was lost. Zero: it fails. A
	// server that comes back must show the same size and flags; that the content is the same, nobody can tell.
	Reconnect time.Duration
	// Dial opens connections. Nil: by package net.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	most *form // for tests: nothing beyond this form is asked for
}

func (o *Options) orDefault(addr Address) (*Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	if out.TLS == nil && addr.TLSCertificates != "" {
		config, err := ClientTLS(addr.TLSCertificates)
		if err != nil {
			return nil, err
		}
		out.TLS = config
	}
	for field, value := range map[*int]int{&out.Connections: 4, &out.InFlight: 16, &out.RequestBytes: 1 << 20} {
		if *field <= 0 {
			*field = value
		}
	}
	if out.Timeout <= 0 {
		out.Timeout = 30 * time.Second
	}
	if len(out.Contexts) > maxQueries-1 {
		return nil, fmt.Errorf("NBD: %d metadata contexts, at most %d: %w", len(out.Contexts), maxQueries-1, fs.ErrInvalid)
	}
	for _, name := range out.Contexts {
		if name == "" || len(name) > maxString {
			return nil, fmt.Errorf("NBD: metadata context %.40q: %w", name, fs.ErrInvalid)
		}
	}
	return &out, nil
}

func (o *Options) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if o.Dial != nil {
		return o.Dial(ctx, network, address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// Client is an open export: a pipe.Image with extents. It is safe for concurrent use.
//
// Further connections, where the server allows them, open in the background: a server that answers only one loses
// nothing. A connection that is lost fails what was under way on it, by an error that wraps [ErrLost]; the others go on.
type Client struct {
	addr  Address
	opts  *Options
	terms *terms // of the first connection; all others must agree

	ctx    context.Context // ends with Close: for what goes on in the background
	cancel context.CancelFunc
	group  sync.WaitGroup
	redial chan struct{} // holds the turn to connect anew

	mu     sync.Mutex
	links  []*link
	lost   error // why the connection that was lost last was lost
	closed bool

	edges    sync.Mutex   // writes that read their blocks first take turns
	writes   atomic.Int64 // number of the write that was begun last
	flushed  atomic.Int64 // the last write that a flush covers
	lostTill atomic.Int64 // writes up to here may have been lost with a connection
}

var errClosed = fmt.Errorf("NBD: the client is closed: %w", fs.ErrClosed)

// Dial opens the export that an NBD URI names, see [ParseURI]. ctx bounds the opening alone.
func Dial(ctx context.Context, uri string, opts *Options) (*Client, error) {
	addr, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return addr.Dial(ctx, opts)
}

// Dial opens the export.
func (a Address) Dial(ctx context.Context, opts *Options) (*Client, error) {
	o, err := opts.orDefault(a)
	if err != nil {
		return nil, err
	}
	first, err := open(ctx, a, o)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", a, err)
	}
	c := &Client{addr: a, opts: o, terms: first.terms, links: []*link{first}, redial: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if first.terms.has(flagMultiConn) && o.Connections > 1 {
		c.group.Go(c.widen)
	}
	return c, nil
}

func open(ctx context.Context, a Address, o *Options) (*link, error) {
	h, err := connect(ctx, a, o)
	if err != nil {
		return nil, err
	}
	var t *terms
	err = h.within(ctx, func(ctx context.Context) (err error) {
		t, err = h.agree(ctx)
		return err
	})
	if refused(err) {
		h.abort()
		return nil, err
	}
	if err != nil {
		h.raw.Close()
		return nil, err
	}
	return newLink(h, t), nil
}

// widen opens further connections.
func (c *Client) widen() {
	for range c.opts.Connections - 1 {
		l, err := c.again(c.ctx)
		if err != nil || !c.keep(l) {
			return
		}
	}
}

// again opens another connection to the same export.
func (c *Client) again(ctx context.Context) (*link, error) {
	l, err := open(ctx, c.addr, c.opts)
	if err != nil {
		return nil, err
	}
	if t := l.terms; t.size != c.terms.size || t.flags != c.terms.flags || t.min != c.terms.min ||
		t.form != c.terms.form || len(t.contexts) != len(c.terms.contexts) {
		l.close()
		return nil, broken("the export is another one: it has %d bytes and flags %#x now, it had %d and %#x", t.size, t.flags, c.terms.size, c.terms.flags)
	}
	return l, nil
}

// keep takes a connection in. One that comes after Close is closed.
func (c *Client) keep(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		l.close()
		return false
	}
	c.links = append(c.links, l)
	return true
}

// Size is the length of the export in bytes.
func (c *Client) Size() int64 { return c.terms.size }

// ReadOnly reports whether the server takes no writes.
func (c *Client) ReadOnly() bool { return c.terms.has(flagReadOnly) }

// BlockSize is the unit of access that the server demands, and the one that it prefers, in bytes. Reads and writes of
// any alignment work all the same: what does not fit is read whole.
func (c *Client) BlockSize() (smallest, preferred int64) { return c.terms.min, c.terms.prefer }

// Contexts are the metadata contexts that can be asked for, in alphabetical order.
func (c *Client) Contexts() []string {
	var names []string
	for name := range c.terms.contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Close ends all connections. Requests under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	links := c.links
	c.links, c.closed = nil, true
	c.mu.Unlock()
	c.cancel()
	for _, l := range links {
		l.close()
	}
	c.group.Wait()
	return nil
}

// pick is the connection with the fewest requests in flight.
func (c *Client) pick(ctx context.Context) (*link, error) {
	l, err := c.standing()
	if l != nil || c.opts.Reconnect <= 0 || err == errClosed {
		return l, err
	}
	return c.reconnect(ctx)
}

// standing is as pick, among the connections that are there.
func (c *Client) standing() (best *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	c.links = slices.DeleteFunc(c.links, func(l *link) bool {
		failure := l.failure()
		if failure == nil {
			return false
		}
		c.lost = failure
		c.lostTill.Store(c.writes.Load())
		return true
	})
	for _, l := range c.links {
		if best == nil || len(l.slots) < len(best.slots) {
			best = l
		}
	}
	if best == nil {
		return nil, c.lost
	}
	return best, nil
}

// reconnect opens a connection in place of those that are lost. Requests that come meanwhile wait for it.
func (c *Client) reconnect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.Reconnect, ErrLost)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	select {
	case c.redial <- struct{}{}:
		defer func() { <-c.redial }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if l, err := c.standing(); l != nil || err == errClosed {
			return l, err
		}
		l, err := c.again(ctx)
		if err == nil {
			if !c.keep(l) {
				return nil, errClosed
			}
			return l, nil
		}
		if _, final := errors.AsType[*ProtocolError](err); final || refused(err) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrLost, err)
		}
	}
}

// begun is a call on the connection that carries it.
type begun struct {
	*call
	link *link
}

// begin sends a request on the best connection.
func (c *Client) begin(ctx context.Context, k *call, payload []byte) (begun, error) {
	l, err := c.pick(ctx)
	if err != nil {
		return begun{}, err
	}
	return begun{k, l}, l.start(ctx, k, payload)
}

// do sends a request and waits for its answer. fresh makes the call; where a connection is lost and another one may be
// opened, it makes it again.
func (c *Client) do(ctx context.Context, fresh func() *call, payload []byte) (*call, error) {
	for try := 0; ; try++ {
		b, err := c.begin(ctx, fresh(), payload)
		if err == nil {
			err = b.link.wait(ctx, b.call)
		}
		if err == nil || !c.worthAgain(ctx, err, try) {
			return b.call, err
		}
	}
}

// maxTries is how often one request is sent at most: one that kills its connection each time is not sent for ever.
const maxTries = 5

func (c *Client) worthAgain(ctx context.Context, err error, try int) bool {
	return c.opts.Reconnect > 0 && try+1 < maxTries && ctx.Err() == nil && errors.Is(err, ErrLost)
}
