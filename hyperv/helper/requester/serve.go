package requester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// Options change how a session is served. Nil and zero fields are good defaults.
type Options struct {
	Product    string // program and version
	Host       string // what the machine is called. Empty: its host name
	Unverified string // what was never run on a real Windows, for users. Empty: Unverified
	// Book keeps what was begun. Nil: in a folder below that for temporary files, which others than administrators may be able to write to.
	Book Book
	// Tick is how often a Take that goes on says so. Zero: 5 s.
	Tick time.Duration
	// WriteLimit is how long a client may take to read an answer. Zero: one minute.
	WriteLimit time.Duration
}

// Unverified is shown to users.
const Unverified = "not yet verified on Windows: the helper's requests to the shadow copy service were run under wine only"

// Bounds of a session.
const (
	MaxReads = 8 // that run at once
	maxSets  = 32
	maxOpen  = 4096 // files

	defaultLease = time.Minute
	leastLease   = time.Second
	mostLease    = time.Hour
	helloLimit   = 30 * time.Second

	strayLimit = 2 * time.Second         // for calls that are not waited for any longer: a read may never come back
	alongLimit = undoLimit + deleteLimit // for a call that makes or ends a set, and was cancelled
)

// ErrLease says that a client was silent for longer than its lease.
var ErrLease = errors.New("the client was silent for longer than its lease")

// Serve serves one session on a stream, to its end, and closes the stream. It returns when everything is taken back: nil after a Bye,
// io.EOF where the client left without one, ErrLease, a malformed message, or the context's end; together with what could not be
// taken back. A read of a disk that does not answer is not waited for: its goroutine ends when it comes back, if it does.
func Serve(ctx context.Context, stream io.ReadWriteCloser, v VSS, opts *Options) error {
	s := &session{stream: stream, vss: v, calls: map[uint32]context.CancelFunc{}, sets: map[uint32]*set{}, files: map[uint32]*file{},
		making: make(chan struct{}, 1), reads: make(chan struct{}, MaxReads)}
	if opts != nil {
		s.opts = *opts
	}
	s.defaults()
	return s.run(ctx)
}

// session is one client's.
type session struct {
	stream io.ReadWriteCloser
	vss    VSS
	opts   Options
	making chan struct{} // held by what makes or ends sets
	reads  chan struct{}

	writing sync.Mutex
	closing sync.Once

	mu    sync.Mutex
	calls map[uint32]context.CancelFunc
	sets  map[uint32]*set
	files map[uint32]*file
	last  uint32 // handle that was given out

	running sync.WaitGroup
}

func (s *session) defaults() {
	o := &s.opts
	if o.Host == "" {
		o.Host, _ = os.Hostname()
	}
	if o.Unverified == "" {
		o.Unverified = Unverified
	}
	if o.Book == nil {
		o.Book = &DirBook{Dir: os.TempDir() + string(os.PathSeparator) + "hikae-sets"}
	}
	if o.Tick <= 0 {
		o.Tick = 5 * time.Second
	}
	if o.WriteLimit <= 0 {
		o.WriteLimit = time.Minute
	}
}

// shut ends the stream: reads and writes that wait on it come back.
func (s *session) shut() { s.closing.Do(func() { _ = s.stream.Close() }) }

func (s *session) run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer s.shut()
	defer context.AfterFunc(ctx, s.shut)()
	bye, err := s.listen(ctx, end)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	s.cancelAll()
	if bye == 0 {
		s.shut() // nobody reads answers any more
	}
	failed := s.takeBack()
	if bye != 0 && err == nil {
		return errors.Join(s.answer(bye, &wire.Done{Of: wire.KindBye}, failed), failed)
	}
	return errors.Join(err, failed)
}

// listen reads until a Bye, whose call it returns, or until the stream ends.
func (s *session) listen(ctx context.Context, end context.CancelCauseFunc) (bye uint32, err error) {
	lease := time.AfterFunc(helloLimit, func() { end(ErrLease) })
	defer lease.Stop()
	length, err := s.hello()
	if err != nil {
		return 0, err
	}
	for {
		lease.Reset(length)
		f, err := wire.Read(s.stream)
		if err != nil {
			return 0, err
		}
		m := wire.New(f.Kind)
		if err := wire.Decode(f, m); err != nil {
			return 0, err
		}
		switch m.(type) {
		case *wire.Bye:
			return f.Call, nil
		case *wire.Cancel:
			s.cancel(f.Call)
		default:
			if err := s.begin(ctx, f.Call, m, end); err != nil {
				return 0, err
			}
		}
	}
}

// hello greets, and returns the lease.
func (s *session) hello() (time.Duration, error) {
	f, err := wire.Read(s.stream)
	if err != nil {
		return 0, err
	}
	var m wire.Hello
	if err := wire.Decode(f, &m); err != nil {
		return 0, err
	}
	if m.Version != wire.Version {
		err := fmt.Errorf("protocol %d, here is %d: %w", m.Version, wire.Version, errors.ErrUnsupported)
		return 0, errors.Join(err, s.answer(f.Call, nil, err))
	}
	lease := time.Duration(m.LeaseMillis) * time.Millisecond
	if lease == 0 {
		lease = defaultLease
	}
	answer := &wire.HelloAnswer{Version: wire.Version, Product: shown(s.opts.Product), Host: shown(s.opts.Host), Unverified: shown(s.opts.Unverified)}
	return min(max(lease, leastLease), mostLease), s.answer(f.Call, answer, nil)
}

// begin starts a call. Its own goroutine answers it.
func (s *session) begin(ctx context.Context, call uint32, m wire.Message, end context.CancelCauseFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[call] != nil || len(s.calls) >= wire.MaxCalls {
		cancel()
		return fmt.Errorf("%w: call %d is open, or %d others are", wire.ErrMalformed, call, len(s.calls))
	}
	s.calls[call] = cancel
	s.running.Go(func() {
		answer, err := s.handle(ctx, call, m)
		s.cancel(call)
		if failed := s.answer(call, answer, err); failed != nil {
			end(failed)
		}
	})
	return nil
}

// cancel ends what a call does. It is open until it was answered.
func (s *session) cancel(call uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[call]; cancel != nil {
		cancel()
	}
}

func (s *session) cancelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.calls {
		cancel()
	}
}

// answer ends a call. An answer that does not fit is a failure of the call.
func (s *session) answer(call uint32, m wire.Message, err error) error {
	s.mu.Lock()
	delete(s.calls, call)
	s.mu.Unlock()
	if err != nil {
		m = failure(err)
	}
	f, err := wire.Encode(call, m)
	if err != nil {
		if f, err = wire.Encode(call, failure(err)); err != nil {
			return err
		}
	}
	return s.send(f)
}

// send writes a frame, in the time that the client has to read it.
func (s *session) send(f wire.Frame) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	late := time.AfterFunc(s.opts.WriteLimit, s.shut)
	defer late.Stop()
	return wire.Write(s.stream, f)
}

// takeBack ends all sets, with their files, when the calls are cancelled. Sets belong to the call that makes or ends them, which ends in
// time; those that read have no such promise from a disk.
func (s *session) takeBack() error {
	select {
	case s.making <- struct{}{}: // for good: nobody makes anything any more
	case <-time.After(alongLimit):
		return fmt.Errorf("a call works on a set and does not end within %v: the shadow copies go with this program: %w", alongLimit, context.DeadlineExceeded)
	}
	s.mu.Lock()
	sets, files := s.sets, slices.Collect(maps.Values(s.files))
	s.sets, s.files = nil, nil // what is opened at this moment finds no set
	s.mu.Unlock()
	closeAll(files)
	var problems []error
	for _, one := range sets {
		problems = append(problems, one.end(context.Background(), deleteLimit))
	}
	s.await()
	return errors.Join(problems...)
}

// await waits until all calls have ended, for a moment.
func (s *session) await() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.running.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(strayLimit):
	}
}
