package session

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// What goes out is collected, so that small frames share a write, and written in pieces of a whole TLS record.
const (
	collected = 64 << 10
	record    = 16 << 10
)

// Small frames wait a moment for each other where many calls are under way: each write is a packet, whose headers may be
// more than what it carries.
const (
	packet     = 1200                   // bytes that are worth one
	crowd      = 8                      // calls under way that make more to come likely
	crowdHere  = 3                      // and of those that are being carried out on this side
	lingerTime = 500 * time.Microsecond // small beside a round trip, or beside what a crowd of calls takes
)

var outBuffers = sync.Pool{New: func() any { return new([collected]byte) }}

// errDone ends a writer that has said its farewell.
var errDone = errors.New("the lane was closed")

// writer is the writing half of a lane.
type writer struct {
	*lane
	buf *[collected]byte // nil while there is nothing in it
	n   int

	lingered bool // what is collected has waited for more
	timer    *time.Timer
}

// write sends what is due until the lane ends.
func (a *lane) write() error {
	w := &writer{lane: a}
	defer w.letGo()
	tick := time.NewTicker(a.timing.pingEvery / 2)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return errDone
		default:
		}
		a.beat()
		o, last := a.next(w.n == 0)
		var err error
		switch {
		case o != nil && last:
			return w.leave(o)
		case o != nil:
			err = w.send(o)
		case w.n > 0 && w.n < packet && !w.lingered && a.crowded():
			w.linger()
		case w.n > 0:
			err = w.flush()
		default:
			w.letGo()
			select {
			case <-a.wake:
			case <-tick.C:
			case <-a.stop:
				return errDone
			}
		}
		if err != nil {
			return fmt.Errorf("lane %d: %w", a.number, a.silence(err))
		}
	}
}

// send puts a frame behind what is collected, and writes whatever is full.
func (w *writer) send(o *outgoing) error {
	defer o.finish()
	if w.buf == nil {
		w.buf = outBuffers.Get().(*[collected]byte)
	}
	for {
		n, more := o.copyTo(w.buf[w.n:])
		w.n += n
		if !more {
			return nil
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// fullLine is how long a write of a record takes where the system has no room for it until the line took some of what went before. Its
// encryption and a system call are far below.
const fullLine = 500 * time.Microsecond

// flush writes what is collected.
func (w *writer) flush() error {
	for off := 0; off < w.n; {
		before := time.Now()
		if w.writeBy.Sub(before) < w.timing.deadAfter*(deadlineStep-1)/deadlineStep {
			w.writeBy = before.Add(w.timing.deadAfter)
			if err := w.conn.SetWriteDeadline(w.writeBy); err != nil {
				return err
			}
		}
		w.writing.Store(max(1, w.link.now()))
		n, err := w.conn.Write(w.buf[off:min(off+record, w.n)])
		w.writing.Store(0)
		w.link.counters.out.Add(int64(n))
		if took := time.Since(before); took > fullLine {
			w.link.counters.sending.Add(int64(took))
		}
		if err != nil {
			return err
		}
		off += n
		w.said.Store(w.link.now())
		w.link.pressure.went(n, time.Since(before))
	}
	w.n, w.lingered = 0, false
	return nil
}

// linger waits for more to send. Nobody need wake the writer meanwhile: it looks again anyway.
func (w *writer) linger() {
	w.lingered = true
	if w.timer == nil {
		w.timer = time.NewTimer(lingerTime)
	} else {
		w.timer.Reset(lingerTime)
	}
	select {
	case <-w.timer.C:
	case <-w.stop:
	}
}

// crowded reports whether more frames are about to come: who makes or carries out one call at a time never waits.
func (a *lane) crowded() bool {
	l := a.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && (l.calls != nil && len(l.calls.open) >= crowd || l.answers != nil && l.answers.running >= crowdHere)
}

// letGo gives the buffer to others while nothing is collected.
func (w *writer) letGo() {
	if w.buf != nil && w.n == 0 {
		outBuffers.Put(w.buf)
		w.buf = nil
	}
}

// leave says the last frame, and waits until the other side has gone: a connection that is closed while something is
// unread is reset, and the reset overtakes what was said.
func (w *writer) leave(o *outgoing) error {
	if err := w.send(o); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if half, ok := w.conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	select {
	case <-w.stop:
	case <-time.After(farewellTime):
	}
	return errDone
}

// next is the next frame that this lane should send; last: nothing follows it. Where there is none and sleep is set, the
// next who has something wakes the writer.
func (a *lane) next(sleep bool) (o *outgoing, last bool) {
	l := a.link
	l.mu.Lock()
	defer l.mu.Unlock()
	a.idle = false
	if a.lost {
		return nil, false
	}
	if m := a.due(); m != nil {
		return mustFrame(m), m == wire.Message(a.farewell)
	}
	if o := a.nextReply(); o != nil {
		a.used = time.Now()
		return o, false
	}
	if l.calls != nil {
		if o := l.calls.give(a); o != nil {
			a.used = time.Now()
			return o, false
		}
	}
	a.idle = sleep
	return nil, false
}

// due is what is to be said outside of calls, the most urgent first.
func (a *lane) due() wire.Message {
	switch l := a.link; {
	case len(a.first) > 0:
		m := a.first[0]
		a.first = a.first[1:]
		return m
	case a.farewell != nil:
		return a.farewell
	case a.pong != nil:
		m := a.pong
		a.pong = nil
		return m
	case a.ping:
		a.ping = false
		a.pinged++
		a.pingedAt = time.Now()
		return &wire.Ping{Nonce: a.pinged}
	case a.ackDue:
		return l.calls.ack(a)
	case a.creditDue:
		a.creditDue = false
		c := l.credit
		return &c
	case a.drain != nil:
		m := a.drain
		a.drain = nil
		return m
	case len(a.durables) > 0:
		return a.dueDurable()
	}
	return nil
}

func (a *lane) dueDurable() wire.Message {
	for w := range a.durables {
		delete(a.durables, w)
		return &wire.Durable{Writer: w, Below: a.link.durable[w]}
	}
	return nil
}

// mustFrame is for messages that we made ourselves and that have no bound to break.
func mustFrame(m wire.Message) *outgoing {
	o, err := frame(0, m)
	if err != nil {
		panic("session: our own message does not fit its bounds: " + err.Error())
	}
	return o
}

// say writes one message to a connection that is no lane yet.
func say(w io.Writer, m wire.Message) error {
	b, err := wire.Append(nil, wire.Frame{Message: m})
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
