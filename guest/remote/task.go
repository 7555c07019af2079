package remote

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// task is one guest's work, on the proxy's side. It lives from the first connection until the client leaves, or until
// nobody was heard of for the time of its lease; then what it deployed is taken away.
type task struct {
	server *Server
	key    taskKey
	peer   trust.Peer
	lease  time.Duration

	ctx    context.Context // of its work; ends with the task
	cancel context.CancelCauseFunc
	over   chan struct{} // closed: the task is no more

	carrier atomic.Pointer[line] // line, for the stream, which is locked when it asks

	mu      sync.Mutex
	heard   time.Time // of the client
	line    *line     // that carries it now; nil: none
	last    uint64    // number of the newest request
	running bool      // it is being carried out
	answer  frame     // of it
	stream  *stream   // of the component; nil: none is deployed
	placed  *placed   // what is deployed

	working sync.WaitGroup
}

func newTask(s *Server, key taskKey, peer trust.Peer, lease time.Duration) *task {
	t := &task{server: s, key: key, peer: peer, lease: lease, heard: time.Now(), over: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// end ends the task; live does what is to be done then.
func (t *task) end(why error) { t.cancel(why) }

// live waits for the task's end, and clears up.
func (t *task) live() {
	defer close(t.over)
	tick := time.NewTicker(max(t.lease/8, time.Second))
	defer tick.Stop()
	for t.ctx.Err() == nil {
		select {
		case <-t.ctx.Done():
		case <-tick.C:
			if silent := t.silence(); silent > t.lease {
				t.end(fmt.Errorf("nobody was heard of for %v", silent.Round(time.Second)))
			}
		}
	}
	t.mu.Lock() // whoever is about to begin something has begun it, and nobody does after that
	s := t.stream
	t.mu.Unlock()
	if s != nil {
		s.fail(context.Cause(t.ctx))
	}
	t.working.Wait()
	t.clear(context.Cause(t.ctx))
	t.server.forget(t)
	t.mu.Lock()
	l := t.line
	t.mu.Unlock()
	if l != nil {
		l.finish()
	}
}

// silence is how long the client was not heard of.
func (t *task) silence() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.heard)
}

// clear takes away what is deployed.
func (t *task) clear(why error) {
	t.mu.Lock()
	p := t.placed
	t.mu.Unlock()
	if p == nil {
		return
	}
	log := t.server.log.With("peer", t.peer.Name, "guest", p.guest)
	ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
	defer cancel()
	if err := p.remove(ctx); err != nil {
		log.Warn("a component may be left in a guest", "why", why, "err", err)
		return
	}
	log.Info("a component was taken away", "why", why)
}

// serve carries the task over a connection until that breaks or the task ends.
func (t *task) serve(l *line, a *attachArgs) error {
	if err := t.take(l, a); err != nil {
		l.refuse(failureOf(err, nil))
		return err
	}
	defer t.leave(l)
	var writing sync.WaitGroup
	writing.Go(func() { l.write(false) })
	defer writing.Wait()
	return l.read(func(f frame) error { return t.frame(l, f) })
}

// take makes a connection the one that carries the task. The one before is given up: its client has.
func (t *task) take(l *line, a *attachArgs) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return &Failure{CodeLost, "the task has ended"}
	}
	at := attachedAnswer{Version: Version, Product: t.server.opts.Version}
	if t.stream != nil {
		at.Received = t.stream.received()
		if err := t.stream.resume(a.Received); err != nil {
			return err
		}
	}
	payload, err := encode(at)
	if err != nil {
		return err
	}
	if t.line != nil {
		t.line.close()
	}
	t.line, t.heard = l, time.Now()
	t.carrier.Store(l)
	l.carry(t.stream)
	return l.send(frame{kind: kindAttached, payload: payload})
}

func (t *task) leave(l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line == l {
		t.line = nil
		t.carrier.Store(nil)
	}
}

// nudge wakes the line of now: the stream has something to send.
func (t *task) nudge() {
	if l := t.carrier.Load(); l != nil {
		l.nudge()
	}
}

// frame takes a frame of the client's.
func (t *task) frame(l *line, f frame) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.line != l:
		return errLeft
	case t.ctx.Err() != nil: // the end of the connection comes when everything is taken away
		return nil
	}
	t.heard = time.Now()
	switch f.kind {
	case kindPing:
		return l.send(frame{kind: kindPong})
	case kindRequest:
		return t.request(l, f)
	case kindLeave:
		t.end(errLeft)
		return nil
	case kindData, kindAck, kindEnd:
		if t.stream == nil {
			return fmt.Errorf("%w: kind %d without a stream", ErrMalformed, f.kind)
		}
		return f.to(t.stream)
	}
	return fmt.Errorf("%w: kind %d is no client's", ErrMalformed, f.kind)
}

// to hands a frame of a stream to it.
func (f frame) to(s *stream) error {
	switch f.kind {
	case kindData:
		return s.put(f.number, f.payload)
	case kindAck:
		return s.ack(f.number)
	}
	return s.end(f.number, string(f.payload))
}

// request carries a request out, once. The task is locked.
func (t *task) request(l *line, f frame) error {
	switch {
	case f.number == t.last && t.running: // the answer comes on this line
		return nil
	case f.number == t.last && t.last > 0:
		return l.send(t.answer)
	case f.number != t.last+1 || t.running:
		return fmt.Errorf("%w: request %d after %d", ErrMalformed, f.number, t.last)
	}
	r := request{}
	if err := decode(f.payload, &r); err != nil {
		return err
	}
	t.last, t.running, t.answer = f.number, true, frame{}
	t.working.Go(func() { t.carryOut(f.number, r) })
	return nil
}

// carryOut does the work of a request, and keeps the answer until the next one.
func (t *task) carryOut(number uint64, r request) {
	var hide []string
	v, err := t.do(t.ctx, r, &hide)
	out := frame{kind: kindAnswer, number: number}
	if err == nil {
		out.payload, err = wire.Encode(v)
	}
	if err != nil {
		out.kind = kindFailure
		out.payload, _ = encode(failureOf(err, hide)) // of bounded strings: it cannot fail
		t.server.log.Info("a request failed", "peer", t.peer.Name, "verb", string(r.Verb), "err", failureOf(err, hide).Text)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running, t.answer = false, out
	if t.line == nil {
		return
	}
	if t.line.send(out) != nil {
		t.line.close()
	} else {
		t.line.carry(t.stream)
	}
}
