package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// Limits of waits.
const (
	helloLimit  = 30 * time.Second
	often       = 10 * time.Second // between two Pings, at most: with silence, a host that is gone is found in 30 s
	silence     = 20 * time.Second // of a host that was sent a Ping
	undoGrace   = 90 * time.Second // for a host to take back what was cancelled
	askLimit    = 4 * time.Minute
	finishLimit = 11 * time.Minute
	deleteLimit = 6 * time.Minute
	fileLimit   = time.Minute
	byeLimit    = 6 * time.Minute
	writeLimit  = 30 * time.Second // for the other end to take a frame
	slideLimit  = 10 * time.Minute // of a call whose limit begins anew
)

// conn is calls over a stream.
type conn struct {
	stream io.ReadWriteCloser
	slots  chan struct{} // one for each call that may be open

	writing sync.Mutex
	closing sync.Once

	born  time.Time
	heard atomic.Int64 // ns since born, when the last byte came
	data  atomic.Int64 // the same, of the last answer to a ReadAt

	mu    sync.Mutex
	calls map[uint32]*call
	next  uint32
	bid   bool  // a Bye was said: an end is in order now
	err   error // why it ended

	done chan struct{} // closed when the reader has ended
}

// call is one that waits for its answer.
type call struct {
	answer   chan wire.Frame
	progress chan wire.Progress
}

// controls are slots that data leave free, for a Ping, a Bye and a Cancel.
const controls = 4

func newConn(stream io.ReadWriteCloser) *conn {
	c := &conn{stream: stream, slots: make(chan struct{}, wire.MaxCalls-controls), born: time.Now(), calls: map[uint32]*call{}, done: make(chan struct{})}
	go c.read()
	return c
}

// shut ends the stream.
func (c *conn) shut() { c.closing.Do(func() { _ = c.stream.Close() }) }

// fail ends the connection with a reason. The first one counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	switch {
	case c.err != nil:
	case c.bid:
		c.err = ErrClosed
	default:
		c.err = err
	}
	c.mu.Unlock()
	c.shut()
}

// bidding says that the end is near.
func (c *conn) bidding() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bid = true
}

func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// note writes down when something came.
func (c *conn) note(at *atomic.Int64) { at.Store(int64(time.Since(c.born))) }

// ear reads the stream and notes each sign of life: over a thin link one frame takes long.
type ear struct{ c *conn }

func (e ear) Read(p []byte) (int, error) {
	n, err := e.c.stream.Read(p)
	if n > 0 {
		e.c.note(&e.c.heard)
	}
	return n, err
}

// read hands answers to those who wait, until the stream ends.
func (c *conn) read() {
	defer close(c.done)
	for {
		f, err := wire.Read(ear{c})
		if err == nil {
			err = c.deliver(f)
		}
		if err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrLink, err))
			return
		}
	}
}

func (c *conn) deliver(f wire.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.calls[f.Call]
	if one == nil {
		return fmt.Errorf("%w: an answer to call %d, which nobody made", wire.ErrMalformed, f.Call)
	}
	if f.Kind == wire.KindProgress {
		var p wire.Progress
		if err := wire.Decode(f, &p); err != nil {
			return err
		}
		select {
		case one.progress <- p:
		default: // whoever waits is slow; the next one says more
		}
		return nil
	}
	if f.Kind == wire.KindRead+wire.KindAnswer {
		c.note(&c.data)
	}
	delete(c.calls, f.Call)
	one.answer <- f
	return nil
}

// send makes a frame of a message and writes it. What the other end does not take in time ends the connection.
func (c *conn) send(number uint32, m wire.Message) error {
	f, err := wire.Encode(number, m)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	late := time.AfterFunc(writeLimit, func() { c.fail(fmt.Errorf("%w: nothing was taken for %v", ErrLink, writeLimit)) })
	defer late.Stop()
	if err := wire.Write(c.stream, f); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrLink, err))
		return c.why()
	}
	return nil
}

// begin opens a call.
func (c *conn) begin(m wire.Message) (uint32, *call, error) {
	one := &call{answer: make(chan wire.Frame, 1), progress: make(chan wire.Progress, 16)}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return 0, nil, c.err
	}
	for c.next++; c.next == 0 || c.calls[c.next] != nil; c.next++ {
	}
	number := c.next
	c.calls[number] = one
	c.mu.Unlock()
	if err := c.send(number, m); err != nil {
		c.mu.Lock()
		delete(c.calls, number)
		c.mu.Unlock()
		return 0, nil, err
	}
	return number, one, nil
}

// how says how a call is made.
type how struct {
	free     bool          // it takes no slot
	limit    time.Duration // of the whole
	since    *atomic.Int64 // nil, or what the limit begins anew with, for slideLimit: conn.heard or conn.data
	undo     bool          // when its context ends it is cancelled, and its end waited for
	progress func(wire.Progress)
}

func (h how) tell(p wire.Progress) {
	if h.progress != nil {
		h.progress(p)
	}
}

// within bounds a call. Answers share the link: over a thin one that of a small call comes behind all data that were asked for before.
func (c *conn) within(ctx context.Context, h how) (context.Context, context.CancelFunc) {
	if h.since == nil {
		return context.WithTimeout(ctx, h.limit)
	}
	ctx, end := context.WithCancelCause(ctx)
	begun := time.Since(c.born)
	var mu sync.Mutex
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(h.limit, func() {
		mu.Lock()
		defer mu.Unlock()
		from := min(max(begun, time.Duration(h.since.Load())), begun+slideLimit)
		if rest := from + h.limit - time.Since(c.born); rest > 0 {
			timer.Reset(rest)
			return
		}
		end(fmt.Errorf("no answer within %v: %w", h.limit, context.DeadlineExceeded))
	})
	return ctx, func() { end(nil); timer.Stop() }
}

// ask makes a call and waits for its answer.
func (c *conn) ask(ctx context.Context, m, into wire.Message, h how) error {
	ctx, cancel := c.within(ctx, h)
	defer cancel()
	if !h.free {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.done:
			return c.why()
		}
	}
	number, one, err := c.begin(m)
	if err != nil {
		c.leave(h)
		return err
	}
	f, err := c.wait(ctx, number, one, h)
	if err != nil {
		go c.leaveLater(one, h) // the slot is taken as long as the call is open at the other end
		return err
	}
	c.leave(h)
	return understand(f, into)
}

func (c *conn) leave(h how) {
	if !h.free {
		<-c.slots
	}
}

func (c *conn) leaveLater(one *call, h how) {
	select {
	case <-one.answer:
	case <-c.done:
	}
	c.leave(h)
}

// understand reads an answer.
func understand(f wire.Frame, into wire.Message) error {
	if f.Kind == wire.KindFailure {
		failure := &wire.Failure{}
		if err := wire.Decode(f, failure); err != nil {
			return err
		}
		return failure
	}
	return wire.Decode(f, into)
}

// wait waits for an answer.
func (c *conn) wait(ctx context.Context, number uint32, one *call, h how) (wire.Frame, error) {
	ended := ctx.Done()
	var grace <-chan time.Time
	for {
		select {
		case f := <-one.answer:
			for len(one.progress) > 0 { // it was told before
				h.tell(<-one.progress)
			}
			return f, nil
		case p := <-one.progress:
			h.tell(p)
		case <-c.done:
			select {
			case f := <-one.answer: // it came before the end
				return f, nil
			default:
			}
			return wire.Frame{}, c.why()
		case <-ended:
			if !h.undo {
				return wire.Frame{}, context.Cause(ctx)
			}
			if err := c.send(number, &wire.Cancel{}); err != nil {
				return wire.Frame{}, err
			}
			ended = nil
			timer := time.NewTimer(undoGrace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			c.fail(fmt.Errorf("%w: it did not take back what was cancelled", ErrLink))
			return wire.Frame{}, errors.Join(context.Cause(ctx), c.why())
		}
	}
}

// keep pings until the connection ends, so that the lease lasts and an end that is silently gone is found.
func (c *conn) keep(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
			go c.ping() // also while the answer to the one before is behind data: the lease goes on
		}
	}
}

// ping asks for a sign of life. Any byte is one; but not for ever.
func (c *conn) ping() {
	err := c.ask(context.Background(), &wire.Ping{}, &wire.Done{Of: wire.KindPing}, how{free: true, limit: silence, since: &c.heard})
	if err != nil {
		c.fail(fmt.Errorf("%w: no answer: %w", ErrLink, err))
	}
}
