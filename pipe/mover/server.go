package mover

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Server is a mover that others connect to: a trusted or blind target, a source service, or a target and a source.
//
// Its life: [NewServer]; any number of [Server.Serve], each for one listener; [Server.Shutdown], after which it is of no
// use any more.
type Server struct {
	opts     ServerOptions
	host     *host
	sessions *session.Server
	further  visitors // connections of other protocols
	doors    *doors
	started  time.Time

	life context.Context // ends with Shutdown
	end  context.CancelFunc
	back sync.WaitGroup // what goes on behind the calls

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	serving   sync.WaitGroup
	draining  bool
	once      sync.Once
	closed    chan struct{}
	closeErr  error

	pulse chan struct{} // see Alive
}

// ErrShutdown is what [Server.Serve] returns when the server has been shut down before.
var ErrShutdown = errors.New("this mover was shut down")

// NewServer makes a mover that listens to nobody yet.
func NewServer(opts *ServerOptions) (*Server, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Identity == nil || o.Book == nil {
		return nil, fmt.Errorf("a mover needs a key of its own and a book of its peers: %w", fs.ErrInvalid)
	}
	s := &Server{opts: o, started: time.Now(), listeners: map[net.Listener]struct{}{}, closed: make(chan struct{}), pulse: make(chan struct{}, 1)}
	if s.host, err = newHost(&o, s); err != nil {
		return nil, err
	}
	s.doors = newDoors(o.Log, o.Observer)
	s.life, s.end = context.WithCancel(context.Background())
	so := &session.ServerOptions{Open: s.open, Linger: o.Linger, MaxSessions: o.MaxSessions, Log: o.Log}
	if o.Source != nil {
		so.Collect = s.collect
	}
	s.sessions = session.NewServer(so)
	s.back.Go(func() { o.Book.Watch(s.life, s.review) })
	s.back.Go(s.sweep)
	return s, nil
}

// Serve takes connections from l until ctx ends, l is closed, or the server is shut down; then it closes l, and returns
// when its connections have ended: cut at once, or by [Server.Shutdown], which is the graceful way. Sessions outlive it:
// a peer may come back by another listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.Close()
	if err := s.enlist(l); err != nil {
		return err
	}
	defer s.serving.Done()
	defer s.delist(l)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var conns sync.WaitGroup
	err := accept(ctx, l, s.opts.Log, func(raw net.Conn) {
		from := addressOf(raw)
		left, ok := s.doors.knock(from)
		if !ok {
			_ = raw.Close()
			s.doors.refused(from, "limit", errors.New("too many connections that have not shown who they are"))
			return
		}
		conns.Go(func() {
			defer left()
			s.serve(ctx, counted{raw, s.opts.Observer}, left)
		})
	})
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if !draining { // else the end of the sessions is the end of the connections
		cancel()
	}
	conns.Wait()
	return err
}

func (s *Server) enlist(l net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return ErrShutdown
	}
	s.listeners[l] = struct{}{}
	s.serving.Add(1)
	return nil
}

func (s *Server) delist(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// serve takes one connection from its handshake to its end.
func (s *Server) serve(ctx context.Context, raw net.Conn, inside func()) {
	tune(raw)
	from := addressOf(raw)
	conn, peer, err := trust.Accept(ctx, raw, trust.ServerTLS(s.opts.Identity, s.opts.Book, s.opts.protocols()...), s.opts.Book)
	inside()
	if err != nil {
		if ctx.Err() == nil {
			s.doors.refused(from, reason(err), err)
		}
		return
	}
	var lane net.Conn = conn
	if s.opts.Shaper != nil {
		lane = s.opts.Shaper.Session(peer.Name).Conn(conn)
	}
	if p := s.opts.Protocols[conn.ConnectionState().NegotiatedProtocol]; p != nil {
		err = s.serveFurther(ctx, p, lane, peer)
	} else {
		err = s.sessions.ServeConn(ctx, lane, peer)
	}
	if err != nil && ctx.Err() == nil {
		s.opts.Log.Debug("a connection ended", "peer", peer.Name, "address", from.String(), "err", err)
	}
}

// keepAlive finds out about peers that have gone while nothing is said, also where nobody beats: on systems without
// TCP_USER_TIMEOUT, and before the session has begun.
const keepAlive = 15 * time.Second

func tune(conn net.Conn) {
	for {
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = under.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: 5 * time.Second, Count: 3})
	}
}

// reason is why a peer was turned away, in a word, for figures.
func reason(err error) string {
	switch {
	case errors.Is(err, trust.ErrUnknownPeer):
		return "unknown"
	case errors.Is(err, trust.ErrRevoked), errors.Is(err, trust.ErrTokenUsed):
		return "revoked"
	case errors.Is(err, trust.ErrExpired), errors.Is(err, trust.ErrNotYetValid):
		return "expired"
	}
	return "handshake"
}

// open begins a session of a peer that calls.
func (s *Server) open(ctx context.Context, peer trust.Peer, push func(wire.Message)) (session.Handler, error) {
	if err := s.opts.Book.Check(peer); err != nil { // it was taken out since its handshake
		return nil, &wire.Fail{Code: wire.CodeForbidden, Text: "this peer is not known here any more"}
	}
	return handlerOf(s.admit(newHandler(ctx, s.host, peer, push)))
}

// admit looks into the book once more when a session is on the list that is reviewed: between the first look and that,
// nobody would have noticed that its peer was taken out.
func (s *Server) admit(h *handler, err error) (*handler, error) {
	if err != nil {
		return nil, err
	}
	if s.opts.Book.Check(h.peer) != nil {
		return nil, errors.Join(&wire.Fail{Code: wire.CodeForbidden, Text: "this peer is not known here any more"}, h.Close())
	}
	return h, nil
}

// handlerOf keeps a nil pointer from becoming a handler.
func handlerOf(h *handler, err error) (session.Handler, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

// review ends the sessions of peers that are not in the book any more.
func (s *Server) review() {
	s.further.review(s.opts.Book.Check)
	gone := map[uint64]bool{} // by serial: a name may have been given again
	for _, peer := range s.host.peers() {
		if !gone[peer.Serial] && s.opts.Book.Check(peer) != nil {
			gone[peer.Serial] = true
			s.opts.Log.Warn("a peer was taken out of the book: its sessions end", "peer", peer.Name)
			s.sessions.Revoke(peer)
		}
	}
}

// sweep closes what nobody has used for a while, and ends what others wait for in vain.
func (s *Server) sweep() {
	if s.host.tenants == nil {
		return
	}
	const every = idleTenant / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	at := s.host.clock.now()
	for {
		select {
		case <-s.life.Done():
			return
		case now := <-tick.C:
			at = s.host.clock.beat(at, every)
			s.host.evict(at)
			if err := s.host.tenants.sweep(now); err != nil {
				s.opts.Log.Warn("the tables of known blocks", "err", err)
			}
		}
	}
}

// Shutdown ends the mover: it takes no new connections and no new points, lets calls under way end until ctx does, and
// then ends the sessions. What was acknowledged as durable is kept by the backend, so that callers that come back to the
// next process bring only what was not. Whoever calls it again waits for the same end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		defer close(s.closed)
		s.mu.Lock()
		s.draining = true
		for l := range s.listeners {
			_ = l.Close()
		}
		s.mu.Unlock()
		s.host.admission.shut()
		drained := s.sessions.Drain(ctx)
		s.end()
		s.closeErr = errors.Join(s.sessions.Close(), s.host.close())
		s.serving.Wait()
		s.back.Wait()
		if drained != nil {
			s.opts.Log.Warn("calls were cut off by the end of this mover", "err", drained)
		}
	})
	<-s.closed
	return s.closeErr
}

// Stats is what the mover's sessions have done so far.
func (s *Server) Stats() session.Stats { return s.sessions.Stats() }

// Alive returns nil when the server is not stuck: it takes, one after the other, the locks without which no connection
// gets in and no session begins, and looks at every session. Where ctx ends before that, it is an error that says so. What
// a store or a disk keeps waiting is not the server's being stuck, and is not asked.
func (s *Server) Alive(ctx context.Context) error {
	select {
	case s.pulse <- struct{}{}:
	case <-ctx.Done(): // the last one who asked still waits
		return fmt.Errorf("the mover is stuck: %w", ctx.Err())
	}
	beat := make(chan struct{})
	go func() {
		defer func() { <-s.pulse }()
		s.mu.Lock()
		_ = s.draining
		s.mu.Unlock()
		_ = s.host.peers()
		_ = s.sessions.Stats()
		close(beat)
	}()
	select {
	case <-beat:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the mover is stuck: %w", ctx.Err())
	}
}

// enrol puts a machine's key in the place of its token.
func (s *Server) enrol(token trust.Peer, m *wire.Enrol) (*wire.Enrolled, error) {
	peer, err := s.opts.Book.Enrol(token.Pin, ed25519.PublicKey(m.PublicKey[:]), m.Host)
	if err != nil {
		return nil, forbidden(err)
	}
	s.opts.Log.Info("a peer was enrolled", "peer", peer.Name, "role", string(peer.Role), "key", peer.Pin.Short())
	return &wire.Enrolled{Name: peer.Name, Role: string(peer.Role), Mode: s.opts.mode()}, nil
}

func (s *Server) rotate(peer trust.Peer, m *wire.Rotate) error {
	if err := s.opts.Book.Rotate(peer, ed25519.PublicKey(m.PublicKey[:])); err != nil {
		return forbidden(err)
	}
	s.opts.Log.Info("a peer announced a new key", "peer", peer.Name)
	return nil
}

// forbidden is what a book refuses.
func forbidden(err error) error {
	if errors.As(err, new(*trust.PeerError)) {
		return &Error{Code: wire.CodeForbidden, Text: err.Error()}
	}
	return err
}

// health says how the mover is; to a peer that is not full, as little as helps.
func (s *Server) health(ctx context.Context, full bool) *wire.HealthIs {
	s.mu.Lock()
	m := &wire.HealthIs{Version: clip(s.opts.Version, wire.MaxName), Mode: s.opts.mode(), Draining: s.draining}
	s.mu.Unlock()
	if !full {
		return m
	}
	st := s.sessions.Stats()
	m.Seconds = uint64(time.Since(s.started) / time.Second)
	m.Sessions, m.Lanes = uint32(max(0, st.Sessions)), uint32(max(0, st.Lanes))
	m.Writers, m.Waiting = uint32(max(0, s.host.admission.writing.Load())), uint32(max(0, s.host.admission.waiting.Load()))
	if s.opts.Free != nil {
		if n, err := s.opts.Free(ctx); err == nil {
			m.Free = max(0, n)
		}
	}
	return m
}
