package session

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// link is one side's end of a session: its lanes, the calls that it makes and the calls that it answers. One lock holds
// all of it; nothing is waited for under the lock.
type link struct {
	log     *slog.Logger
	start   time.Time
	ctx     context.Context // of the calls that are carried out here; ends with the session
	cancel  context.CancelCauseFunc
	heard   func(wire.Message) // what the other side says outside of calls; nil: nobody listens
	parted  func(*lane)        // a lane has gone; whoever opens lanes, or waits for them, looks
	calls   *caller            // nil: this side makes none
	answers *answerer          // nil: this side answers none

	counters counters
	pressure pressure
	running  sync.WaitGroup // lanes, from add to the end of their goroutines

	mu      sync.Mutex
	lanes   []*lane
	err     error // why it is over
	over    chan struct{}
	rtt     time.Duration // the shortest so far; 0: not known
	durable map[uint32]uint64
	credit  wire.Credit // that the other side was given last
}

// maxDurables bounds the writers of which news is kept. A session writes a few points at once.
const maxDurables = 1024

func newLink(log *slog.Logger) *link {
	l := &link{log: log, start: time.Now(), over: make(chan struct{}), durable: map[uint32]uint64{}}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

func (l *link) now() int64 { return int64(time.Since(l.start)) }

// add takes a lane in. It fails where the session is over.
func (l *link) add(a *lane) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.lanes = append(l.lanes, a)
	l.running.Add(1)
	l.tellAll(a)
	if l.calls != nil {
		l.calls.paused = false
	}
	return nil
}

// lost lets go of a lane. Its calls go back to the front of the queue.
func (l *link) lost(a *lane) {
	l.mu.Lock()
	a.lost = true
	l.lanes = slices.DeleteFunc(l.lanes, func(b *lane) bool { return a == b })
	var ended []*outgoing
	for _, r := range a.replies {
		ended = append(ended, r.out)
	}
	a.replies = nil
	if l.calls != nil {
		l.calls.takeBack(a)
	}
	if len(l.lanes) > 0 {
		l.tellAll(l.lanes[len(l.lanes)-1])
	}
	for _, b := range l.lanes {
		b.notify()
	}
	l.mu.Unlock()
	for _, o := range ended {
		o.finish()
	}
	l.parted(a)
}

// tellAll says on a lane what may have been lost on another.
func (l *link) tellAll(a *lane) {
	for w := range l.durable {
		a.durables[w] = struct{}{}
	}
	a.creditDue = a.creditDue || l.answers != nil && l.credit != (wire.Credit{})
	a.notify()
}

// wakeOne wakes one writer that sleeps. Those that do not will look for themselves. It wants the lock.
func (l *link) wakeOne() {
	for _, a := range l.lanes {
		if a.idle {
			a.idle = false
			a.notify()
			return
		}
	}
}

// best is the lane on which the other side was heard last.
func (l *link) best() *lane {
	var best *lane
	for _, a := range l.lanes {
		if best == nil || a.heard.Load() > best.heard.Load() {
			best = a
		}
	}
	return best
}

// push says something outside of calls: now, or as soon as there is a lane.
func (l *link) push(m wire.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.best()
	switch m := m.(type) {
	case *wire.Durable:
		l.keepDurable(m)
		if a != nil {
			a.durables[m.Writer] = struct{}{}
		}
	case *wire.Credit:
		l.setCredit(*m)
	case *wire.Drain:
		for _, b := range l.lanes {
			b.drain = m
			b.notify()
		}
	default:
		panic(fmt.Sprintf("session: %v cannot be pushed", m.Kind()))
	}
	if a != nil {
		a.notify()
	}
}

// keepDurable remembers the newest news of a writer, because the lane on which it is said may not live.
func (l *link) keepDurable(m *wire.Durable) {
	if len(l.durable) >= maxDurables {
		oldest := m.Writer
		for w := range l.durable {
			oldest = min(oldest, w)
		}
		delete(l.durable, oldest)
	}
	l.durable[m.Writer] = max(l.durable[m.Writer], m.Below)
}

// setCredit gives the other side other limits. They are told on every lane: lanes overtake each other, and what comes last
// on each must be the newest. It wants the lock.
func (l *link) setCredit(c wire.Credit) {
	if c == l.credit {
		return
	}
	l.credit = c
	l.answers.grant(c)
	for _, a := range l.lanes {
		a.creditDue = true
		a.notify()
	}
}

// receive does what a frame says. An error ends the lane on which it came.
func (l *link) receive(a *lane, f wire.Frame, mem *memory) error {
	kind := f.Message.Kind()
	if kind.InCall() && !answers(kind) {
		if l.answers == nil {
			mem.free()
			return fmt.Errorf("%w: it asks for %v, and nobody answers here", errProtocol, kind)
		}
		return l.broken(l.answers.request(a, f.Call, f.Message, mem))
	}
	if kind.InCall() {
		if l.calls == nil {
			return fmt.Errorf("%w: it answers %v, and nobody asked", errProtocol, kind)
		}
		l.calls.answered(a, f.Call, f.Message)
		return nil
	}
	return l.notice(a, f.Message)
}

// broken ends the session where the other side does not keep to the protocol. Its lanes live on for the farewell.
func (l *link) broken(err error) error {
	if err != nil {
		l.end(err, &wire.Refuse{Code: wire.CodeInvalid, Text: err.Error()})
	}
	return nil
}

// notice takes what is said outside of calls.
func (l *link) notice(a *lane, m wire.Message) error {
	switch m := m.(type) {
	case *wire.Ping:
		l.mu.Lock()
		a.pong = &wire.Pong{Nonce: m.Nonce}
		l.mu.Unlock()
		a.notify()
	case *wire.Pong:
		l.measured(a, m.Nonce)
	case *wire.Ack:
		if l.answers == nil {
			return fmt.Errorf("%w: an acknowledgement, and nothing was answered", errProtocol)
		}
		l.answers.acknowledged(m)
	case *wire.Refuse:
		err, final := refusal(m)
		if final {
			l.end(err, nil)
		}
		return err
	case *wire.Credit, *wire.Durable, *wire.Drain:
		if l.calls == nil {
			return fmt.Errorf("%w: %v is for callers", errProtocol, m.Kind())
		}
		l.calls.told(m)
	default:
		return fmt.Errorf("%w: %v in the middle of a lane", errProtocol, m.Kind())
	}
	return nil
}

// measured takes the answer of a Ping. Pings behind much content measure the queue, so the shortest counts.
func (l *link) measured(a *lane, nonce uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if nonce != a.pinged || a.pingedAt.IsZero() {
		return
	}
	took := max(time.Since(a.pingedAt), time.Microsecond)
	a.pingedAt = time.Time{}
	if l.rtt == 0 || took < l.rtt {
		l.rtt = took
	}
}

// end ends the session: every call fails with err, lanes say farewell and close. The first end counts.
func (l *link) end(err error, farewell *wire.Refuse) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	close(l.over)
	l.cancel(err)
	lanes := slices.Clone(l.lanes)
	for _, a := range lanes {
		a.farewell = farewell
		a.notify()
	}
	if l.calls != nil {
		l.calls.failAll(err)
	}
	answers := l.answers
	l.mu.Unlock()
	l.part(lanes, farewell, err)
	if answers != nil {
		go answers.close()
	}
}

// part closes lanes: at once, or a moment after their farewell.
func (l *link) part(lanes []*lane, farewell *wire.Refuse, err error) {
	for _, a := range lanes {
		if farewell == nil {
			go a.fail(err)
		} else {
			time.AfterFunc(2*farewellTime, func() { a.fail(err) })
		}
	}
}

// why is the reason why the session is over, nil while it is not.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// proven reports whether there is a lane on which something came back.
func (l *link) proven() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lanes, func(a *lane) bool { return a.proved.Load() })
}

// live is how many lanes there are.
func (l *link) live() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lanes)
}

// quiet waits until all lanes have gone.
func (l *link) quiet(atMost time.Duration) {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	gone := make(chan struct{})
	go func() {
		l.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-deadline.C:
	}
}

// failAll ends every lane; the session goes on.
func (l *link) failAll(err error) {
	l.mu.Lock()
	lanes := slices.Clone(l.lanes)
	l.mu.Unlock()
	for _, a := range lanes {
		a.fail(err)
	}
}
