package agent

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of a lease.
const (
	DefaultLease = time.Minute
	MinLease     = time.Second
	MaxLease     = time.Hour
)

// Options are the parts of a component. The verbs of a part that is nil are unknown to it.
type Options struct {
	Product    string // name and version
	Persist    bool   // it stays when a session ends, and serves several
	Unverified string // what of this build was never run on a real system of its kind
	Admin      bool   // this account may freeze
	Boot       string // changes with each start of the guest

	Freezer      Freezer
	Applications Applications
	Scripts      Scripts
	Logs         LogKeeper
	Indexer      Indexer
	Installer    Installer

	// Enrol takes a client's key in place of the temporary one.
	Enrol func(ctx context.Context, args wire.EnrolArgs) (wire.EnrolAnswer, error)
	// Remove takes everything of ours away, but for what goes with the end of the process. It is called at most once in a
	// session, after file systems are thawed and applications let go. Nil: there is nothing to take away.
	Remove func(ctx context.Context) (wire.RemoveAnswer, error)
}

// Agent is the component: what is in one guest. At most one of its sessions holds a freeze, whoever they belong to.
type Agent struct {
	opts   Options
	freeze chan struct{} // holds a token: the session that has it may freeze
}

// New makes a component of its parts.
func New(opts *Options) *Agent {
	a := &Agent{freeze: make(chan struct{}, 1)}
	if opts != nil {
		a.opts = *opts
	}
	a.freeze <- struct{}{}
	return a
}

// Serve serves one stream as one session, until the stream ends, the lease is over, the client says Remove, or the
// context ends. It then thaws, lets applications go, closes the stream and returns; nil after Remove.
func (a *Agent) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	s := a.Open()
	return s.serve(ctx, stream, s.letGoOnce)
}

// Open begins a session that outlives its streams: see [Session.Serve]. Its lease runs from now on.
func (a *Agent) Open() *Session {
	s := &Session{
		agent: a, stage: make(chan struct{}, 1), slots: make(chan struct{}, wire.MaxCalls),
		answers: make(chan struct{}, 2*wire.MaxCalls),
		lease:   DefaultLease, done: make(chan struct{}),
	}
	s.stage <- struct{}{}
	s.timer = time.AfterFunc(s.lease, func() { s.end(ErrLease) })
	return s
}

// Session is what one client does, told as a story: Hello, Inspect, Prepare, Freeze, Thaw, Finish, Settle, Remove. It
// ends with its lease, which every frame renews, or by Remove or Close. Whatever was held then is let go.
type Session struct {
	agent *Agent
	stage chan struct{} // holds a token: whoever has it may change what follows
	slots chan struct{} // one is taken by each call that is open
	// answers are calls that are open or whose answer is being written: a client that takes none stops here. They are twice
	// the slots, since a client may begin a call as soon as it has an answer, and its place is free only after that.
	answers chan struct{}

	prepared Prepared
	frozen   *hold           // nil: nothing is
	thawed   wire.ThawAnswer // of a freeze that ended by itself and that nobody asked about yet

	mu      sync.Mutex
	greeted bool
	lease   time.Duration
	timer   *time.Timer
	undo    context.CancelFunc // of a freeze under way
	holding bool               // as frozen says, for those who do not have the stage
	reason  error              // of the end
	done    chan struct{}
	closed  sync.Once
}

// Done is closed when the session is over: its lease has ended, or it was removed. Close is still to be called.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session is over; nil after Remove, and while it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// end says that the session is over. The first reason counts.
func (s *Session) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		s.reason = reason
		close(s.done)
	}
}

// Renew begins the lease anew.
func (s *Session) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Reset(s.lease)
}

// Close thaws what is frozen and lets applications go. It may be called from any state, and again.
func (s *Session) Close() error {
	s.letGoOnce()
	return nil
}

func (s *Session) letGoOnce() {
	s.end(ErrClosed)
	s.closed.Do(s.letGo)
}

// letGo waits for a stage that is under way: each ends with its context, which ended with the session.
func (s *Session) letGo() {
	s.timer.Stop()
	s.cancelFreeze()
	<-s.stage
	defer func() { s.stage <- struct{}{} }()
	ctx, cancel := context.WithTimeout(context.Background(), letGoLimit)
	defer cancel()
	s.release(ctx)
}

// release lets go of everything. The caller has the stage.
func (s *Session) release(ctx context.Context) {
	if s.frozen != nil {
		s.thaw(ctx)
	}
	if s.prepared != nil {
		s.prepared.Close()
		s.prepared = nil
	}
}

// letGoLimit bounds thawing, and letting applications go. Scripts after a thaw are not part of it.
const letGoLimit = time.Minute

// enter takes the stage, unless the session is over: nothing is begun then that nobody would end.
func (s *Session) enter(ctx context.Context) (leave func(), err error) {
	select {
	case <-s.stage:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	leave = func() { s.stage <- struct{}{} }
	select {
	case <-s.done:
		leave()
		return nil, failure(wire.CodeCancelled, "the session is over")
	default:
		return leave, nil
	}
}
