package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// stragglers is how long calls may take to notice that their stream has ended.
const stragglers = 5 * time.Second

// Serve serves a stream of frames until it ends, or the session does. Calls that are open then are cancelled. The stream
// is closed; the session goes on. It returns nil after Remove, io.EOF where the client left, and otherwise what was wrong
// with the stream or why the session ended.
func (s *Session) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	return s.serve(ctx, rw, func() {})
}

// serve calls last as soon as the stream is over, before it waits for anything.
func (s *Session) serve(ctx context.Context, rw io.ReadWriteCloser, last func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &stream{session: s, rw: rw, calls: map[uint32]*call{}}
	ended := make(chan error, 1)
	go func() { ended <- t.read(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-s.done:
		// What is frozen does not wait for a peer that takes no answers.
		cancel()
		s.letGoOnce()
		err = s.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	cancel()
	last()
	rw.Close()
	t.drain()
	return err
}

// stream is one stream that is being served.
type stream struct {
	session *Session
	rw      io.ReadWriteCloser
	writing sync.Mutex
	open    sync.WaitGroup

	mu    sync.Mutex
	last  uint32 // call that began
	calls map[uint32]*call
	over  bool // no call begins any more
}

// call is one that is open.
type call struct {
	cancel context.CancelFunc
	gate   *wire.Gate  // for data that we give
	inbox  *wire.Inbox // for data that we take
}

// drain waits for calls to notice that it is over. One that hangs in the kernel is left to itself.
func (t *stream) drain() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	within(stragglers, &t.open)
}

func (t *stream) read(ctx context.Context) error {
	r := bufio.NewReaderSize(t.rw, 64<<10)
	for {
		f, err := wire.Read(r)
		if err != nil {
			return err
		}
		t.session.Renew()
		if err := t.take(ctx, f); err != nil {
			return err
		}
	}
}

// take takes a frame of the client's. An error is the end of the stream.
func (t *stream) take(ctx context.Context, f wire.Frame) error {
	if f.Kind == wire.KindRequest {
		return t.begin(ctx, f)
	}
	t.mu.Lock()
	c, future := t.calls[f.Call], f.Call > t.last
	t.mu.Unlock()
	switch {
	case future:
		return fmt.Errorf("%w: call %d has not begun", wire.ErrMalformed, f.Call)
	case f.Kind == wire.KindAnswer, f.Kind == wire.KindFailure:
		return fmt.Errorf("%w: an answer from a client", wire.ErrMalformed)
	case c == nil: // it has ended
		return nil
	case f.Kind == wire.KindCancel:
		c.cancel()
		return nil
	case f.Kind == wire.KindMore && c.gate != nil:
		return c.gate.More()
	case f.Kind == wire.KindData && c.inbox != nil:
		return c.inbox.Put(f.Payload)
	}
	return fmt.Errorf("%w: kind %d for a call that has no such data", wire.ErrMalformed, f.Kind)
}

// begin begins a call. A client that has too many open is answered here, so that it cannot pile up work.
func (t *stream) begin(ctx context.Context, f wire.Frame) error {
	var req wire.Request
	if err := wire.Decode(f.Payload, &req); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return io.ErrClosedPipe
	}
	if t.last != 0 && f.Call != t.last+1 {
		return fmt.Errorf("%w: call %d after %d", wire.ErrMalformed, f.Call, t.last)
	}
	t.last = f.Call
	if !t.session.take() {
		return t.send(wire.KindFailure, f.Call, failure(wire.CodeState, "more than %d calls are open", wire.MaxCalls))
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{cancel: cancel}
	if req.Verb.GivesData() {
		c.gate = wire.NewGate()
	}
	if req.Verb.TakesData() {
		c.inbox = wire.NewInbox(func() error { return t.write(wire.Frame{Kind: wire.KindMore, Call: f.Call}) })
		context.AfterFunc(ctx, func() { c.inbox.End(context.Cause(ctx)) })
	}
	t.calls[f.Call] = c
	t.open.Go(func() { t.run(ctx, f.Call, c, req) })
	return nil
}

// take takes a place for a call.
func (s *Session) take() bool {
	select {
	case s.answers <- struct{}{}:
	default:
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		<-s.answers
		return false
	}
}

// run carries a call out and answers it. Its slot is free before the client can know that.
func (t *stream) run(ctx context.Context, number uint32, c *call, req wire.Request) {
	defer func() { <-t.session.answers }()
	answer, err := t.session.do(ctx, req, c, func(p []byte) error {
		return t.write(wire.Frame{Kind: wire.KindData, Call: number, Payload: p})
	})
	c.cancel()
	t.mu.Lock()
	delete(t.calls, number)
	t.mu.Unlock()
	<-t.session.slots
	if err == nil {
		err = t.send(wire.KindAnswer, number, answer)
	}
	if err != nil {
		t.send(wire.KindFailure, number, failed(err)) // a stream that does not take it has ended for its reader too
		return
	}
	if req.Verb == wire.Remove {
		t.session.end(nil)
	}
}

// send sends a message. One that cannot be coded is an error and nothing is sent.
func (t *stream) send(kind byte, number uint32, message any) error {
	payload, err := wire.Encode(message)
	if err != nil {
		return err
	}
	return t.write(wire.Frame{Kind: kind, Call: number, Payload: payload})
}

func (t *stream) write(f wire.Frame) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return wire.Write(t.rw, f)
}
