package mover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// line is one session with a mover. [session.Client] is the real one.
type line interface {
	// CallNumbered makes a call and tells its number in the session. The answer belongs to the caller; the request's
	// content is not read any more when it returns.
	CallNumbered(ctx context.Context, req wire.Message) (call uint64, answer wire.Message, err error)
	Close() error
}

// opener begins a new session. What the other side says outside of calls goes to push.
type opener func(ctx context.Context, push func(wire.Message)) (line, greeting, error)

// greeting is what is known of a session when it begins.
type greeting struct {
	peer      string // the name under which we are known there
	undurable int64  // bytes that may be unsettled at once; 0: the other side does not say
}

// Client is a connection to a mover, and the far repository as a [pipe.Backend].
//
// It is safe for concurrent use. A cut line is mended by the session below it and nobody notices. A mover that was
// started anew has forgotten the session: then the client begins another and puts back what is open in it: images are
// opened again, points that are being written are begun again and filled from the notes that their writers keep.
type Client struct {
	open     opener
	dialer   *dialer // nil where open is not its
	settings settings
	pin      trust.Pin
	window   *window

	current atomic.Pointer[epoch]
	gate    chan struct{} // held by who begins a session
	turns   chan struct{} // of Begins that may wait on the other side
	closed  atomic.Bool
	life    context.Context // of what goes on behind a call that has returned; ends with Close
	end     context.CancelFunc
	behind  sync.WaitGroup

	mu       sync.Mutex
	greeting greeting
	writers  map[*remoteWriter]struct{}
	stats    Stats
}

// settings are the options, with what they leave open filled in.
type settings struct {
	GiveUp    time.Duration
	Replays   int
	Keep      int64
	CacheDir  string
	Log       *slog.Logger
	Warn      func(string)
	patience  time.Duration // for a window that is full, where the target has settled something before
	impatient time.Duration // and where it never has
}

// Stats is what a client has gone through.
type Stats struct {
	Sessions int   // that were begun
	Replays  int   // points that were put back after a session was lost
	Placed   int64 // blocks that were placed again by their ids, without content
	Resent   int64 // encoded bytes of blocks that were sent a second time
	Unkept   int64 // encoded bytes that could not be kept until they were durable: a replay would miss them
}

// epoch is one session of the client, from its Hello until it is lost.
type epoch struct {
	client *Client
	line   line
	gone   atomic.Bool
	why    atomic.Pointer[error] // where it ended for a reason that is nothing to begin another for

	mu      sync.Mutex
	writers map[wire.Ref]*remoteWriter
	settled map[wire.Ref]uint64 // what was told of writers that are not known yet
}

func newClient(open opener, pin trust.Pin, s settings) *Client {
	c := &Client{open: open, settings: s, pin: pin, gate: make(chan struct{}, 1), turns: make(chan struct{}, maxBegins), writers: map[*remoteWriter]struct{}{}}
	c.window = newWindow(s.Keep)
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

var errClientClosed = fmt.Errorf("the connection is closed: %w", fs.ErrClosed)

// session is the current session. Where there is none, one is begun, and others wait for it.
func (c *Client) session(ctx context.Context) (*epoch, error) {
	if e := c.current.Load(); e != nil {
		return e, nil
	}
	select {
	case c.gate <- struct{}{}:
		defer func() { <-c.gate }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e := c.current.Load(); e != nil {
		return e, nil
	}
	if c.closed.Load() {
		return nil, errClientClosed
	}
	e := &epoch{client: c, writers: map[wire.Ref]*remoteWriter{}, settled: map[wire.Ref]uint64{}}
	l, g, err := c.open(ctx, func(m wire.Message) { c.pushed(e, m) })
	if err != nil {
		return nil, err
	}
	e.line = l
	c.window.setLimit(g.undurable)
	c.mu.Lock()
	c.greeting = g
	c.stats.Sessions++
	c.mu.Unlock()
	c.current.Store(e)
	if c.closed.Load() { // it was closed meanwhile, and did not see this session
		c.lost(e)
		return nil, errClientClosed
	}
	return e, nil
}

// lost says that a session is gone. The first to say so ends it; the next call begins another.
func (c *Client) lost(e *epoch) {
	if e.gone.Swap(true) {
		return
	}
	c.current.CompareAndSwap(e, nil)
	_ = e.line.Close()
}

// pushed takes what the other side says outside of calls. It must not wait.
func (c *Client) pushed(e *epoch, m wire.Message) {
	switch m := m.(type) {
	case *wire.Durable:
		e.mu.Lock()
		w := e.writers[m.Writer]
		if w == nil && len(e.settled) < maxSettled {
			e.settled[m.Writer] = max(e.settled[m.Writer], m.Below)
		}
		e.mu.Unlock()
		if w != nil {
			w.settle(e, m.Below)
		}
	case *wire.Credit:
		c.window.setLimit(int64(min(m.Undurable, maxKeep)))
	case *wire.Drain:
		c.settings.Log.Info("the mover is about to end; going on when it is back", "seconds", m.Seconds)
	}
}

// maxSettled bounds what a peer can make us remember of writers that we never had.
const maxSettled = 256

// enter makes a writer known in a session, so that it is told what is durable.
func (e *epoch) enter(ref wire.Ref, w *remoteWriter) {
	e.mu.Lock()
	below := e.settled[ref]
	delete(e.settled, ref)
	e.writers[ref] = w
	e.mu.Unlock()
	if below > 0 {
		w.settle(e, below)
	}
}

func (e *epoch) leave(ref wire.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.writers, ref)
}

// isLost reports whether the session that a call was made in does not exist any more on the other side.
func isLost(err error) bool {
	return errors.Is(err, session.ErrLost) || errors.Is(err, ErrLostSession)
}

// callNumbered makes one call in one session and holds the answer to its kind.
func callNumbered[A wire.Message](ctx context.Context, e *epoch, req wire.Message) (uint64, A, error) {
	var none A
	n, answer, err := e.line.CallNumbered(ctx, req)
	if err != nil {
		return n, none, e.whatFailed(ctx, err)
	}
	if f, ok := answer.(*wire.Fail); ok {
		return n, none, fromFail(f)
	}
	a, ok := answer.(A)
	if !ok {
		return n, none, malformed("%v was answered by %v", req.Kind(), kindOf(answer))
	}
	return n, a, nil
}

// whatFailed is the error of a call as the client's callers see it.
func (e *epoch) whatFailed(ctx context.Context, err error) error {
	f, answered := errors.AsType[*wire.Fail](err)
	switch {
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case answered:
		return fromFail(f)
	case ctx.Err() != nil || isLost(err):
		return err
	case e.why.Load() != nil:
		return *e.why.Load()
	case e.gone.Load(): // another call found out, and ended the session under this one
		return fmt.Errorf("%w: %w", ErrLostSession, err)
	case errors.Is(err, trust.ErrRefused) && e.client.dialer != nil && e.client.dialer.hasAnother():
		return fmt.Errorf("%w: this machine has another key by now: %w", ErrLostSession, err)
	case errors.Is(err, session.ErrGaveUp), errors.Is(err, session.ErrClosed):
		e.why.Store(&err)
		e.client.lost(e) // who comes later may try anew
	}
	if r, ok := errors.AsType[*wire.Refuse](err); ok {
		return fmt.Errorf("%w: %w", err, &Error{Code: r.Code, Text: printable(r.Text)})
	}
	return err
}

func kindOf(m wire.Message) any {
	if m == nil {
		return "nothing"
	}
	return m.Kind()
}

func call[A wire.Message](ctx context.Context, e *epoch, req wire.Message) (A, error) {
	_, a, err := callNumbered[A](ctx, e, req)
	return a, err
}

// malformed is an answer that fits its kind and makes no sense.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{wire.ErrMalformed}, args...)...)
}

// ask makes a call that needs nothing in its session, so that it can be made again in another one.
func ask[A wire.Message](ctx context.Context, c *Client, req wire.Message) (A, error) {
	var none A
	for try := 1; ; try++ {
		e, err := c.session(ctx)
		if err != nil {
			return none, err
		}
		a, err := call[A](ctx, e, req)
		if !isLost(err) {
			return a, err
		}
		c.lost(e)
		if try > c.settings.Replays {
			return none, err
		}
	}
}

// Peer is the name under which the mover knows this side.
func (c *Client) Peer() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.greeting.peer
}

// ID names the far repository as this side sees it, for change ids that must not be taken for another's.
func (c *Client) ID() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%x/%s", c.pin, c.Peer()))
	return "mover-" + hex.EncodeToString(sum[:16])
}

// Stats tells what the client has gone through so far.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// sending is how long the connections of the session that is open took no more, on average, while there was more to send. It begins anew with each
// session.
func (c *Client) sending() time.Duration {
	e := c.current.Load()
	if e == nil {
		return 0
	}
	l, ok := e.line.(interface{ Stats() session.Stats })
	if !ok {
		return 0
	}
	s := l.Stats()
	return s.Sending / time.Duration(max(1, s.Lanes))
}

func (c *Client) count(add func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.stats)
}

// Health asks the mover how it is.
func (c *Client) Health(ctx context.Context) (*wire.HealthIs, error) {
	return ask[*wire.HealthIs](ctx, c, &wire.Health{})
}

// Close ends the session. Calls under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	was := c.closed.Swap(true)
	c.mu.Unlock()
	if was {
		return nil
	}
	var err error
	if e := c.current.Swap(nil); e != nil {
		err = e.line.Close()
	}
	c.end()
	c.behind.Wait()
	return err
}

// afterwards runs tidy, which nobody can wait for long: at most wait here, and until [Client.Close] behind the back.
func (c *Client) afterwards(wait time.Duration, tidy func(ctx context.Context)) {
	done := make(chan struct{})
	if !c.goOn(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(c.life, c.settings.GiveUp)
		defer cancel()
		tidy(ctx)
	}) {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

var _ pipe.Backend = (*Client)(nil)

// withDefaults fills in what is left open.
func (s settings) withDefaults() settings {
	if s.GiveUp <= 0 {
		s.GiveUp = 30 * time.Minute
	}
	if s.Replays <= 0 {
		s.Replays = 5
	}
	if s.Keep <= 0 {
		s.Keep = defaultKeep
	}
	s.Keep = min(s.Keep, maxKeep)
	if s.CacheDir == "" {
		s.CacheDir = os.TempDir()
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Warn == nil {
		s.Warn = func(string) {}
	}
	if s.patience <= 0 {
		s.patience = 15 * time.Second
	}
	if s.impatient <= 0 {
		s.impatient = time.Second
	}
	return s
}
