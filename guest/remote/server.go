package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Ways makes a way into a guest from the settings and the credential that a task brings, for each kind of channel that
// this proxy has. Settings are the kind's own JSON; they come from the backup server, and are judged like any input.
type Ways map[guest.Kind]func(settings json.RawMessage, c guest.Credential) (guest.Way, error)

// ServerOptions say what a proxy can do. Ways and Programs are needed; zero fields are good defaults.
type ServerOptions struct {
	Ways     Ways
	Programs guest.Programs
	// Journal keeps every deployment before it happens. It belongs to this proxy, and is opened anew by each start. Nil:
	// what a killed proxy leaves is found by nobody but the components' own leases.
	Journal *hikae.FileJournal

	// Direct are the ports of persistent components and their installer services to which this proxy connects for its
	// clients. TLS is between those and the guest; the proxy carries bytes. None: it connects to no port.
	Direct []uint16

	// Deployments is how many guests are probed, deployed to or swept at once. Others wait in the order in which they came.
	// As many again have components removed: what goes does not wait behind what comes. A component that is deployed and
	// only used does not count. Zero: 16.
	Deployments int
	// Tasks is how many there are at once; more are refused. Zero: 1024.
	Tasks int

	Log     *slog.Logger // nil: nobody listens. It gets no secret
	Version string       // of the program
	System  *System      // what this machine is. Nil: what it finds out
}

const (
	defaultDeployments = 16
	defaultTasks       = 1024
	tasksEach          = 512 // of one peer, where there are several
	connsEach          = 3   // connections beyond tasks: a new one may come before the old one is given up
	deployLimit        = 5 * time.Minute
	removeLimit        = time.Minute
	probeLimit         = 10 * time.Second
	probesLimit        = time.Minute
)

// Server is the service of a guest interaction proxy. It is a [mover.Protocol]: a mover serves it on its own port.
//
//	m, err := mover.NewServer(&mover.ServerOptions{…, Protocols: map[string]mover.Protocol{remote.ALPN: server}})
//
// Close ends every task, with what it deployed.
type Server struct {
	opts    ServerOptions
	log     *slog.Logger
	slots   chan struct{} // for what comes
	exits   chan struct{} // for what goes
	waiting atomic.Int32
	sleep   func(context.Context, time.Duration) error // between two attempts to reach a guest

	sweeping chan struct{} // of one

	mu      sync.Mutex
	tasks   map[taskKey]*task
	conns   int
	closed  bool
	working sync.WaitGroup
}

var _ mover.Protocol = (*Server)(nil)

// taskKey is a task of a peer: nobody else comes by it.
type taskKey struct {
	peer uint64
	id   string
}

// NewServer makes the service. It connects to nobody before a task asks for it.
func NewServer(opts *ServerOptions) (*Server, error) {
	if opts == nil || len(opts.Ways) == 0 || opts.Programs == nil {
		return nil, fmt.Errorf("a guest interaction proxy needs ways into guests and a component to bring in: %w", fs.ErrInvalid)
	}
	o := *opts
	if o.Deployments < 0 || o.Tasks < 0 {
		return nil, fmt.Errorf("a limit below zero: %w", fs.ErrInvalid)
	}
	o.Deployments, o.Tasks = cmp.Or(o.Deployments, defaultDeployments), cmp.Or(o.Tasks, defaultTasks)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.System == nil {
		o.System = ThisSystem()
	}
	s := &Server{opts: o, log: o.Log, slots: make(chan struct{}, o.Deployments), exits: make(chan struct{}, o.Deployments), sleep: sleep, sweeping: make(chan struct{}, 1), tasks: map[taskKey]*task{}}
	s.report()
	return s, nil
}

// report tells at the start what a dead proxy may have left.
func (s *Server) report() {
	left, err := s.leftovers(context.Background(), "")
	for _, l := range left {
		s.log.Warn("a component may have been left in a guest by an earlier process", "guest", l.Guest, "way", string(l.Kind), "folder", l.Folder)
	}
	if err != nil {
		s.log.Warn("the journal", "err", err)
	}
}

// ServeConn implements [mover.Protocol].
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, peer trust.Peer) error {
	l := newLine(conn)
	defer l.close()
	defer l.watch(ctx)()
	if peer.Token || peer.Role != trust.Guest && peer.Role != trust.Full { // before it takes anybody's place
		if _, err := l.get(firstTime); err != nil { // a refusal is an answer
			return err
		}
		err := &Failure{CodeForbidden, "this peer's role is not for work in guests"}
		l.refuse(failureOf(err, nil))
		return err
	}
	if !s.enter() {
		l.refuse(failureOf(ErrBusy, nil))
		return ErrBusy
	}
	defer s.leave()
	t, a, err := s.attach(l, peer)
	if err != nil {
		l.refuse(failureOf(err, nil))
		return err
	}
	err = t.serve(l, a)
	if ctx.Err() != nil { // the peer is in the book no more, or the mover ends: what it had deployed is not its any more
		t.end(errors.New("the peer may not come any more, or the proxy is being shut down"))
	}
	return err
}

// enter counts a connection in.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= connsEach*s.opts.Tasks {
		return false
	}
	s.conns++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// attach reads the first frame and finds or begins its task.
func (s *Server) attach(l *line, peer trust.Peer) (*task, *attachArgs, error) {
	f, err := l.get(firstTime)
	if err != nil {
		return nil, nil, err
	}
	a := &attachArgs{}
	if f.kind != kindAttach {
		return nil, nil, fmt.Errorf("%w: kind %d comes first", ErrMalformed, f.kind)
	}
	var v struct{ Version int }
	if json.Unmarshal(f.payload, &v) == nil && v.Version != Version { // what else another version says may have any form
		return nil, nil, &Failure{CodeVersion, fmt.Sprintf("this proxy speaks version %d of %s, not %d", Version, ALPN, v.Version)}
	}
	if err := errors.Join(decode(f.payload, a), a.check()); err != nil {
		return nil, nil, err
	}
	t, err := s.find(peer, a)
	return t, a, err
}

// find is the task of that name, or a new one.
func (s *Server) find(peer trust.Peer, a *attachArgs) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := taskKey{peer.Serial, a.Task}
	if t := s.tasks[key]; t != nil {
		return t, nil
	}
	switch {
	case a.Again:
		return nil, &Failure{CodeLost, "this proxy does not know the task: it was started anew, or the task's lease ended"}
	case s.closed:
		return nil, &Failure{CodeCancelled, "the proxy is being shut down"}
	case len(s.tasks) >= s.opts.Tasks, s.count(peer.Serial) >= tasksEach:
		return nil, fmt.Errorf("%w (%d)", ErrBusy, len(s.tasks))
	}
	t := newTask(s, key, peer, time.Duration(a.LeaseMillis)*time.Millisecond)
	s.tasks[key] = t
	s.working.Go(t.live)
	return t, nil
}

func (s *Server) count(peer uint64) (n int) {
	for k := range s.tasks {
		if k.peer == peer {
			n++
		}
	}
	return n
}

// forget takes out a task that has ended.
func (s *Server) forget(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.key)
}

// slot waits for room to work in a guest. free is to be called once.
func (s *Server) slot(ctx context.Context) (free func(), err error) { return s.room(ctx, s.slots) }

// exit waits for room to take something away.
func (s *Server) exit(ctx context.Context) (free func(), err error) { return s.room(ctx, s.exits) }

func (s *Server) room(ctx context.Context, slots chan struct{}) (free func(), err error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for room: %w", context.Cause(ctx))
	}
}

// Close ends every task and takes away what they deployed; connections are for whoever serves them to end. When ctx ends
// first, the error says so, and what could not be taken away ends by its own lease.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, t := range s.tasks {
		t.end(errClosing)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.working.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("guest tasks are still ending: %w", context.Cause(ctx))
	}
}

var errClosing = errors.New("the proxy is being shut down")

// status is how the proxy is.
func (s *Server) status(ctx context.Context, peer trust.Peer) (*Status, error) {
	left, err := s.leftovers(ctx, peerFact(peer.Serial))
	if err != nil {
		s.log.Warn("the journal", "err", err)
	}
	out := &Status{Version: Version, Product: s.opts.Version, Arch: runtime.GOARCH, System: *s.opts.System, Leftovers: left, Limit: s.opts.Deployments, Waiting: int(s.waiting.Load())}
	out.Addresses = addresses()
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Tasks = len(s.tasks) - 1 // the one that asks
	for k := range s.opts.Ways {
		out.Kinds = append(out.Kinds, k)
	}
	out.sort()
	return out, nil
}
