package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// ServerOptions say how a server behaves. Zero fields are good defaults; one of Open and Collect is needed.
type ServerOptions struct {
	// Open begins a session of a peer that calls. push says a *wire.Durable to it, from any goroutine; news of a writer
	// that comes too early or too late does no harm. An error that is a *wire.Fail or *wire.Refuse refuses the session
	// with its code, any other with wire.CodeFailed. nil: peers may not call. [NameIn] finds the session's name in ctx, and
	// in that of Collect.
	Open func(ctx context.Context, peer trust.Peer, push func(wire.Message)) (Handler, error)
	// Collect begins a session of a peer that collects. The handler gets its order, and calls it by the client, which ends
	// with the session. nil: peers may not collect.
	Collect func(ctx context.Context, peer trust.Peer, to *Client) (Handler, error)

	// Linger is how long a session without a lane is kept. 0: 30 min.
	Linger time.Duration
	// MaxCalls, Window and Undurable are what one session may have under way at most. 0: 128 calls, 16 MiB, 96 MiB.
	MaxCalls  int
	Window    int64
	Undurable int64
	// Memory is what all windows together may take; with many sessions each gets less. 0: 512 MiB.
	Memory int64
	// MaxSessions bounds sessions (0: 4096), MaxPerPeer those of one peer (0: 1024), MaxLanes the lanes of one session
	// (0: 8), MaxGreeting connections that have not said Hello (0: 2048).
	MaxSessions, MaxPerPeer, MaxLanes, MaxGreeting int
	// PingEvery (0: 5 s) is when a side that heard or said nothing says Ping, DeadAfter (0: 20 s) when it gives a lane up.
	PingEvery, DeadAfter time.Duration
	// Log gets refusals and the ends of sessions. nil: nowhere.
	Log *slog.Logger
}

// leastWindow is what a session gets however many there are.
const leastWindow = 512 << 10

// Server accepts lanes and keeps the sessions that they belong to.
type Server struct {
	opts ServerOptions

	mu       sync.Mutex
	sessions map[key]*hosted
	perPeer  map[owner]int
	greeting int
	draining bool
	closed   bool
	share    wire.Credit // of each session
	past     counters    // of sessions that have ended
	refused  *refusals
	running  sync.WaitGroup

	sharing sync.Mutex // whoever tells sessions their parts; taken before mu and a link's lock
}

// owner is one enrolment of a peer; a later one under the same name is another.
type owner struct {
	name   string
	serial uint64
	token  bool
}

func ownerOf(p trust.Peer) owner { return owner{p.Name, p.Serial, p.Token} }

// key names a session: a peer never reaches another's.
type key struct {
	owner owner
	id    [16]byte
	role  wire.Role
}

// hosted is a session on the side that accepts lanes.
type hosted struct {
	server *Server
	key    key
	peer   trust.Peer
	link   *link
	opened chan struct{} // closed when the handler is there, or will not be
	failed error         // why it is not
	linger *time.Timer   // runs while there is no lane; under the server's lock
}

// NewServer returns a server without sessions.
func NewServer(opts *ServerOptions) *Server {
	s := &Server{opts: opts.filled(), sessions: map[key]*hosted{}, perPeer: map[owner]int{}, refused: newRefusals()}
	s.share = s.shareOf(1)
	return s
}

func (o *ServerOptions) filled() ServerOptions {
	f := *o
	fill(&f.Linger, 30*time.Minute)
	fill(&f.MaxCalls, defaultCalls)
	f.MaxCalls = min(f.MaxCalls, wire.MaxCalls)
	fill(&f.Window, defaultWindow)
	fill(&f.Undurable, defaultUndurable)
	fill(&f.Memory, 512<<20)
	fill(&f.MaxSessions, 4096)
	fill(&f.MaxPerPeer, 1024)
	fill(&f.MaxLanes, 8)
	f.MaxLanes = min(f.MaxLanes, wire.MaxLanes)
	fill(&f.MaxGreeting, 2048)
	fill(&f.PingEvery, 5*time.Second)
	fill(&f.DeadAfter, 20*time.Second)
	t := timing{f.PingEvery, f.DeadAfter}.bounded()
	f.PingEvery, f.DeadAfter = t.pingEvery, t.deadAfter
	if f.Log == nil {
		f.Log = slog.New(slog.DiscardHandler)
	}
	return f
}

// fill gives what is not set its default.
func fill[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// ServeConn takes a connection of a peer whose identity is known, and serves the lane until it ends. It closes conn. The
// error says why the lane ended; a lane's end is not the session's.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, peer trust.Peer) error {
	defer abort(conn)
	hello, err := s.greet(ctx, conn)
	if err != nil {
		s.refuse(ctx, conn, peer, err)
		return err
	}
	h, resumed, err := s.join(ctx, peer, hello)
	if err != nil {
		s.refuse(ctx, conn, peer, err)
		return err
	}
	a := newLane(h.link, conn, hello.Lane, timing{s.opts.PingEvery, s.opts.DeadAfter})
	a.first = []wire.Message{s.welcome(h, resumed)}
	if err := s.enter(h, a); err != nil {
		s.refuse(ctx, conn, peer, err)
		return err
	}
	defer h.link.running.Done()
	return a.run(ctx)
}

// greet reads a Hello, which has to come whole within 10 s. Nothing is kept for a connection before.
func (s *Server) greet(ctx context.Context, conn net.Conn) (*wire.Hello, error) {
	if err := s.greetingBy(1); err != nil {
		return nil, err
	}
	defer s.greetingBy(-1)
	defer context.AfterFunc(ctx, func() { abort(conn) })()
	if err := conn.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return nil, err
	}
	// A Hello of another version may be longer than ours; what is no Hello is not read to its end.
	f, err := wire.NewReader(io.LimitReader(conn, wire.HeaderSize+1<<10)).Read()
	if err != nil {
		return nil, fmt.Errorf("waiting for a Hello: %w", err)
	}
	hello, ok := f.Message.(*wire.Hello)
	switch {
	case !ok:
		return nil, refuseWith(wire.CodeInvalid, "a connection begins with a Hello, not with %v", f.Message.Kind())
	case hello.Version != wire.Version:
		return nil, refuseWith(wire.CodeVersion, "this mover speaks version %d of the protocol, not %d", wire.Version, hello.Version)
	}
	return hello, conn.SetDeadline(time.Time{})
}

func refuseWith(code wire.Code, format string, args ...any) *wire.Refuse {
	return &wire.Refuse{Code: code, Text: fmt.Sprintf(format, args...)}
}

// greetingBy counts connections that have not said Hello.
func (s *Server) greetingBy(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.greeting >= s.opts.MaxGreeting {
		return refuseWith(wire.CodeBusy, "%d connections have not said Hello", s.greeting)
	}
	s.greeting += n
	return nil
}

// refuse says why a connection is not taken, and gives the other side a moment to read it.
func (s *Server) refuse(ctx context.Context, conn net.Conn, peer trust.Peer, err error) {
	s.past.refused.Add(1)
	m := refusalOf(err)
	s.refused.note(s.opts.Log, peer, conn.RemoteAddr().String(), m, err)
	if m == nil {
		return
	}
	defer context.AfterFunc(ctx, func() { abort(conn) })()
	_ = conn.SetDeadline(time.Now().Add(farewellTime))
	if say(conn, m) != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, collected)
	}
}

// refusalOf is what the other side is told of an error: nothing where it has gone.
func refusalOf(err error) *wire.Refuse {
	var r *wire.Refuse
	var f *wire.Fail
	switch {
	case errors.As(err, &r):
		return r
	case errors.As(err, &f):
		return &wire.Refuse{Code: f.Code, Text: f.Error()}
	case errors.Is(err, wire.ErrMalformed):
		return &wire.Refuse{Code: wire.CodeInvalid, Text: err.Error()}
	case errors.Is(err, ErrClosed):
		return &wire.Refuse{Code: wire.CodeLost, Text: err.Error()}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(net.Error)), errors.Is(err, net.ErrClosed):
		return nil
	}
	return &wire.Refuse{Code: wire.CodeFailed, Text: err.Error()}
}

// welcome is what a lane hears first.
func (s *Server) welcome(h *hosted, resumed bool) *wire.Welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &wire.Welcome{Version: wire.Version, Resumed: resumed,
		MaxCalls: s.share.MaxCalls, Window: s.share.Window, Undurable: s.share.Undurable, MaxLanes: uint16(s.opts.MaxLanes),
		PingEvery: uint32(s.opts.PingEvery.Milliseconds()), DeadAfter: uint32(s.opts.DeadAfter.Milliseconds()),
		Linger: uint32(s.opts.Linger.Seconds()), Peer: h.peer.Name}
}
