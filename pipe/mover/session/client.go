package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// ClientOptions say how a client behaves. Zero fields are good defaults, but Dial is needed.
type ClientOptions struct {
	// Dial opens a connection whose other end is known, such as a *tls.Conn behind its handshake. It is called for each
	// lane, never twice at once, and its context ends after 20 s. Where another attempt is useless its error wraps
	// [ErrFinal].
	Dial func(ctx context.Context) (net.Conn, error)
	// Role is wire.Caller (the default), or wire.Collector: then Handler answers the other side's calls.
	Role    wire.Role
	Handler Handler
	// Serve is what a collector lets the other side have under way. Zero: 128 calls, 16 MiB, 96 MiB unsettled.
	Serve wire.Credit
	// GiveUp is how long the session waits for a line. 0: 30 min.
	GiveUp time.Duration
	// Patience is how long NewClient tries to get its first lane. 0: one attempt.
	Patience time.Duration
	// Lanes is the number of connections. 0: as the line needs, from one to eight.
	Lanes int
	// Push is told what the other side says outside of calls: *wire.Durable, *wire.Credit, *wire.Drain. It must not wait.
	Push func(wire.Message)
	// Shape puts limits around a connection. nil: none.
	Shape func(net.Conn) net.Conn
	// Log gets what happens to lanes. nil: nowhere.
	Log *slog.Logger

	wall func() time.Time // for tests: the clock on the wall
}

// Client is the calling end of a session. It is a [Caller].
type Client struct {
	link *link
	id   [16]byte
	peer string
	opts ClientOptions
	keep *keeper // nil: the other side opens the lanes
}

// Defaults of what may be under way at once.
const (
	defaultCalls     = 128
	defaultWindow    = 16 << 20
	defaultUndurable = 96 << 20
)

// NewClient opens a session. It returns when the other side has welcomed the first lane; ctx bounds that, not the session,
// which lives until Close. Errors are those of Dial, or a *wire.Refuse; the
// handler is not closed then.
func NewClient(ctx context.Context, opts *ClientOptions) (*Client, error) {
	o := opts.filled()
	if o.Dial == nil || o.Role == wire.Collector && o.Handler == nil {
		return nil, errors.New("session: a client needs a way to dial, and a collector a handler")
	}
	c := &Client{opts: o}
	if _, err := rand.Read(c.id[:]); err != nil {
		return nil, err
	}
	l := newLink(o.Log.With("session", nameOf(c.id)))
	c.link = l
	l.heard = o.Push
	l.calls = newCaller(l)
	if o.Role == wire.Collector {
		l.answers = newAnswerer(l, o.Handler)
		l.mu.Lock()
		l.setCredit(o.Serve)
		l.mu.Unlock()
	}
	c.keep = newKeeper(c)
	if err := c.keep.first(ctx); err != nil {
		l.mu.Lock()
		l.answers = nil // the handler stays its maker's
		l.mu.Unlock()
		l.end(err, nil)
		return nil, err
	}
	go c.keep.run()
	return c, nil
}

// nameOf is a session's number for logs: enough of it to tell sessions apart.
func nameOf(id [16]byte) string { return hex.EncodeToString(id[:6]) }

func (o *ClientOptions) filled() ClientOptions {
	f := *o
	if f.Role == 0 {
		f.Role = wire.Caller
	}
	if f.Serve == (wire.Credit{}) {
		f.Serve = wire.Credit{MaxCalls: defaultCalls, Window: defaultWindow, Undurable: defaultUndurable}
	}
	f.Serve.MaxCalls = min(f.Serve.MaxCalls, wire.MaxCalls)
	if f.GiveUp <= 0 {
		f.GiveUp = 30 * time.Minute
	}
	f.Lanes = min(max(f.Lanes, 0), wire.MaxLanes)
	if f.Log == nil {
		f.Log = slog.New(slog.DiscardHandler)
	}
	if f.wall == nil {
		f.wall = time.Now
	}
	return f
}

// Call makes a call. See [Caller].
func (c *Client) Call(ctx context.Context, req wire.Message) (wire.Message, error) {
	_, answer, err := c.link.calls.make(ctx, req)
	return answer, err
}

// CallNumbered is Call that tells the call's number too: 1 and up, 0 where the call was not begun.
func (c *Client) CallNumbered(ctx context.Context, req wire.Message) (call uint64, answer wire.Message, err error) {
	return c.link.calls.make(ctx, req)
}

// Last is the number of the newest call, 0 before the first.
func (c *Client) Last() uint64 {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.link.calls.next - 1
}

// Peer is the name under which the other side knows this one, or on its side the name of who opened the session.
func (c *Client) Peer() string {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.peer
}

// Limits are what the other side allows now.
func (c *Client) Limits() wire.Credit {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.link.calls.limits
}

// Notify has push told what the other side says outside of calls, in place of the one in the options.
func (c *Client) Notify(push func(wire.Message)) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.heard = push
}

// Push says a *wire.Durable or *wire.Credit to a side that calls this one: for a collector.
func (c *Client) Push(m wire.Message) {
	if c.link.answers != nil {
		c.link.push(m)
	}
}

// Done is closed when the session is over. Err then says why.
func (c *Client) Done() <-chan struct{} { return c.link.over }

// Err is why the session is over, nil while it is not.
func (c *Client) Err() error { return c.link.why() }

// Stats is what the session has done so far.
func (c *Client) Stats() Stats {
	var s Stats
	c.link.addTo(&s)
	return s
}

// Close ends the session on both sides, where there is a line; calls under way fail with [ErrClosed]. It waits a few
// seconds at most, so that the other side hears of it; a collector's waits for its handler too.
func (c *Client) Close() error {
	c.link.end(ErrClosed, &wire.Refuse{Code: wire.CodeClosed, Text: "the session is over"})
	if c.keep != nil {
		<-c.keep.done
	}
	c.link.quiet(3 * farewellTime)
	if c.keep != nil && c.link.answers != nil {
		<-c.link.answers.closed
	}
	return nil
}

// dial opens one lane: connection, Hello, Welcome.
func (c *Client) dial(ctx context.Context, number uint32) (*lane, error) {
	conn, err := c.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if c.opts.Shape != nil {
		conn = c.opts.Shape(conn)
	}
	welcome, err := c.greet(ctx, conn, number)
	if err == nil {
		err = c.welcomed(welcome, number)
	}
	if err != nil {
		abort(conn)
		return nil, err
	}
	t := timing{time.Duration(welcome.PingEvery) * time.Millisecond, time.Duration(welcome.DeadAfter) * time.Millisecond}
	return newLane(c.link, conn, number, t.bounded()), nil
}

// greet says Hello and reads what comes back.
func (c *Client) greet(ctx context.Context, conn net.Conn, number uint32) (*wire.Welcome, error) {
	defer context.AfterFunc(ctx, func() { abort(conn) })()
	if err := conn.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return nil, err
	}
	hello := &wire.Hello{Version: wire.Version, Role: c.opts.Role, Session: c.id, Lane: number}
	if err := say(conn, hello); err != nil {
		return nil, fmt.Errorf("saying Hello: %w", trust.Explain(err))
	}
	f, err := wire.NewReader(io.LimitReader(conn, wire.HeaderSize+4<<10)).Read()
	if err != nil {
		return nil, fmt.Errorf("waiting for the Welcome: %w", trust.Explain(err))
	}
	switch m := f.Message.(type) {
	case *wire.Welcome:
		return m, conn.SetDeadline(time.Time{})
	case *wire.Refuse:
		err, final := refusal(m)
		if final {
			err = fmt.Errorf("%w: %w", err, ErrFinal)
		}
		return nil, err
	}
	return nil, fmt.Errorf("%w: %v in the place of a Welcome", errProtocol, f.Message.Kind())
}

// welcomed takes what a Welcome says.
func (c *Client) welcomed(w *wire.Welcome, number uint32) error {
	switch {
	case w.Version != wire.Version:
		return fmt.Errorf("%w: version %d, and this is %d: %w", errProtocol, w.Version, wire.Version, ErrFinal)
	case number > 0 && !w.Resumed:
		return fmt.Errorf("%w: it began the session anew: %w", ErrLost, ErrFinal)
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.peer == "" {
		c.peer = w.Peer
	}
	c.link.calls.limit(wire.Credit{MaxCalls: w.MaxCalls, Window: w.Window, Undurable: w.Undurable})
	c.keep.most = max(1, int(w.MaxLanes))
	return nil
}
