package remote

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// session is a task on the client's side: it keeps the link to the proxy, and what must be sent again where that breaks.
type session struct {
	client *Client
	guest  string
	id     string

	calling sync.Mutex // one request at a time
	carrier atomic.Pointer[line]

	ctx    context.Context // ends with the task
	cancel context.CancelCauseFunc
	done   chan struct{} // closed: nothing runs any more

	mu      sync.Mutex
	line    *line
	stream  *stream
	number  uint64   // of the newest request
	pending *pending // it is not answered yet
	leaving bool
	began   bool // the proxy knows the task
	news    bool // something has come on this line that was not there before
}

// pending is a request that is not answered.
type pending struct {
	number  uint64
	payload []byte
	answer  chan frame // of one
}

func newSession(c *Client, name string) *session {
	s := &session{client: c, guest: name, id: strings.ToLower(rand.Text()), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// open connects for the first time, and keeps the link from then on.
func (s *session) open(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	l, err := s.connect()
	if !stop() && err == nil { // it ended just then
		l.close()
		err = context.Cause(ctx)
	}
	if err != nil {
		close(s.done)
		s.cancel(err)
		if ctx.Err() != nil {
			return fmt.Errorf("reach proxy %s: %w", s.client.opts.Name, context.Cause(ctx))
		}
		return s.lost(err, 0)
	}
	go s.keep(l)
	return nil
}

// lost is what a link that is given up means for the guest. A proxy that was reached and takes no task is another thing.
func (s *session) lost(err error, reconnects int) error {
	if r, ok := errors.AsType[*refusal](err); ok && reconnects == 0 {
		return fmt.Errorf("proxy %s: %w", s.client.opts.Name, r.err)
	}
	return &TaskError{Guest: s.guest, Proxy: s.client.opts.Name, Link: ToProxy, Reconnects: reconnects, Err: err}
}

// final reports whether another attempt cannot help.
func final(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	_, peer := errors.AsType[*trust.PeerError](err)
	return refused || peer || errors.Is(err, trust.ErrRefused) || errors.Is(err, ErrMalformed)
}

// refusal is a proxy's last word.
type refusal struct{ err error }

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// connect makes one connection that carries the task.
func (s *session) connect() (*line, error) {
	ctx, cancel := context.WithTimeout(s.ctx, connectTime)
	defer cancel()
	conn, err := s.client.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l := newLine(conn)
	defer l.watch(ctx)()
	if err := s.attach(l); err != nil {
		l.close()
		if ctx.Err() != nil && s.ctx.Err() == nil {
			err = errors.Join(fmt.Errorf("the proxy does not answer: %w", context.Cause(ctx)), err)
		}
		return nil, trust.Explain(err)
	}
	return l, nil
}

// attach says which task this connection is for, and hears where it stands.
func (s *session) attach(l *line) error {
	s.mu.Lock()
	a := attachArgs{Version: Version, Task: s.id, Again: s.began, LeaseMillis: s.client.opts.Lease.Milliseconds()}
	if s.stream != nil {
		a.Received = s.stream.received()
	}
	s.mu.Unlock()
	payload, err := encode(a)
	if err != nil {
		return err
	}
	if err := l.put(frame{kind: kindAttach, payload: payload}); err != nil {
		return err
	}
	f, err := l.get(connectTime)
	if err != nil {
		return err
	}
	switch f.kind {
	case kindAttached:
		return s.attached(l, f)
	case kindRefuse:
		return s.refused(f)
	}
	return fmt.Errorf("%w: kind %d in the place of an answer", ErrMalformed, f.kind)
}

func (s *session) refused(f frame) error {
	r := &failure{}
	if err := decode(f.payload, r); err != nil {
		return err
	}
	return &refusal{r.error(s.guest, s.client.opts.Name)}
}

// attached makes a connection the one that carries the task: what the proxy has not received or answered is sent again.
func (s *session) attached(l *line, f frame) error {
	a := attachedAnswer{}
	if err := decode(f.payload, &a); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		if err := s.stream.resume(a.Received); err != nil {
			return err
		}
	}
	s.began, s.news, s.line = true, false, l
	l.carry(s.stream)
	s.carrier.Store(l)
	if s.pending != nil {
		if err := l.send(frame{kind: kindRequest, number: s.pending.number, payload: s.pending.payload}); err != nil {
			return err
		}
	}
	if s.leaving {
		return l.send(frame{kind: kindLeave})
	}
	return nil
}

// keep carries the task over one connection after the other, until it is over or the reconnects are used up.
func (s *session) keep(l *line) {
	defer close(s.done)
	defer s.client.forget(s)
	var err error
	for tried := 0; l != nil; {
		err = s.serve(l)
		s.mu.Lock()
		if s.news {
			tried = 0
		}
		over := s.leaving
		s.mu.Unlock()
		if over || s.ctx.Err() != nil {
			break
		}
		if final(err) { // it speaks another language: it would do so again
			err = s.lost(err, tried)
			break
		}
		l, err = s.reconnect(&tried, err)
	}
	s.end(err)
}

// end tells everybody that the task is over.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.leaving || err == nil {
		err = fmt.Errorf("the task was ended: %w", fs.ErrClosed)
	}
	stream := s.stream
	s.mu.Unlock()
	s.cancel(err)
	if stream != nil {
		stream.fail(context.Cause(s.ctx))
	}
}

// serve carries the task over a connection until that breaks.
func (s *session) serve(l *line) error {
	defer l.watch(s.ctx)()
	var writing sync.WaitGroup
	writing.Go(func() { l.write(true) })
	err := l.read(func(f frame) error { return s.frame(l, f) })
	writing.Wait()
	return err
}

// reconnect tries to reach the proxy again: 10 times at most, and less where that cannot help (R191). tried counts the
// attempts since something new has come from it.
func (s *session) reconnect(tried *int, why error) (*line, error) {
	for *tried < ToProxy.Reconnects() {
		*tried++
		if tell := s.client.opts.Reconnecting; tell != nil {
			tell(s.guest, *tried, why)
		}
		if err := s.client.opts.Sleep(s.ctx, backOff(*tried)); err != nil {
			return nil, err
		}
		l, err := s.connect()
		if err == nil {
			return l, nil
		}
		if why = err; final(err) || s.ctx.Err() != nil {
			break
		}
	}
	return nil, s.lost(why, *tried)
}

// frame takes a frame of the proxy's.
func (s *session) frame(l *line, f frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != l {
		return errLeft
	}
	switch f.kind {
	case kindPong:
	case kindAnswer, kindFailure:
		if p := s.pending; p != nil && p.number == f.number {
			s.pending = nil
			p.answer <- f
		} else if f.number > s.number {
			return fmt.Errorf("%w: an answer to request %d after %d", ErrMalformed, f.number, s.number)
		}
	case kindData, kindAck, kindEnd:
		if s.stream == nil {
			return fmt.Errorf("%w: kind %d without a stream", ErrMalformed, f.kind)
		}
		if err := f.to(s.stream); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: kind %d is no proxy's", ErrMalformed, f.kind)
	}
	s.news = true
	return nil
}

// carry begins the component's stream.
func (s *session) carry() *stream {
	st := newStream(func() {
		if l := s.carrier.Load(); l != nil {
			l.nudge()
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = st
	if s.line != nil {
		s.line.carry(st)
	}
	return st
}

// call makes a request and waits for its answer, over however many connections. A call that is given up gives the task
// up.
func (s *session) call(ctx context.Context, v verb, args, out any) error {
	s.calling.Lock()
	defer s.calling.Unlock()
	p, err := s.ask(v, args)
	if err != nil {
		return err
	}
	select {
	case f := <-p.answer:
		return s.answered(f, out)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-ctx.Done():
		s.leave()
		return fmt.Errorf("%s by proxy %s: %w", v, s.client.opts.Name, context.Cause(ctx))
	}
}

// ask sends a request.
func (s *session) ask(v verb, args any) (*pending, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	payload, err := encode(request{Verb: v, Args: raw})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return nil, fmt.Errorf("the task was ended: %w", fs.ErrClosed)
	}
	s.number++
	s.pending = &pending{number: s.number, payload: payload, answer: make(chan frame, 1)}
	if s.line != nil {
		_ = s.line.send(frame{kind: kindRequest, number: s.number, payload: payload}) // a line that is full breaks
	}
	return s.pending, nil
}

// answered reads an answer.
func (s *session) answered(f frame, out any) error {
	if f.kind == kindAnswer {
		return decode(f.payload, out)
	}
	r := &failure{}
	if err := decode(f.payload, r); err != nil {
		return err
	}
	return r.error(s.guest, s.client.opts.Name)
}

// remove has the proxy take the component away and prove it; then the task is over. After an error it may be called again,
// while the task lives.
func (s *session) remove(ctx context.Context) error {
	limit := removeLimit
	if end, ok := ctx.Deadline(); ok {
		limit = max(min(limit, time.Until(end)), time.Millisecond)
	}
	err := s.call(ctx, verbRemove, removeArgs{LimitMillis: limit.Milliseconds()}, &removeAnswer{})
	if err == nil {
		s.leave()
		return nil
	}
	if errors.Is(err, guest.ErrLeftover) {
		return err
	}
	return fmt.Errorf("%w, maybe: nobody could look: %w", guest.ErrLeftover, err)
}

// leave ends the task: the proxy takes away what is deployed.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return
	}
	s.leaving = true
	if s.line == nil {
		s.cancel(errLeft)
		return
	}
	_ = s.line.send(frame{kind: kindLeave})
	// The proxy closes the connection when everything is taken away; nobody waits for that longer than this.
	context.AfterFunc(s.ctx, s.line.close)
	time.AfterFunc(leaveTime, func() { s.cancel(errLeft) })
}

// wait waits for the end of a task that was left.
func (s *session) wait(limit time.Duration) {
	select {
	case <-s.done:
	case <-time.After(limit + time.Second):
	}
}

// broken is why the task is over, nil while it is not.
func (s *session) broken() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}
