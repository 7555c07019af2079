package nfc

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// link is one connection that carries frames: requests go out one after another, and a goroutine of its own takes the
// answers in whatever order they come. A caller that leaves early abandons its call: what still arrives for it is read and
// dropped, since the stream has no other way to go on.
type link struct {
	raw     net.Conn
	in      *bufio.Reader
	out     *bufio.Writer
	conn    net.Conn // raw, or TLS over it
	timeout time.Duration

	writing chan struct{} // holds the turn to write
	slots   chan struct{} // one for each request that is not answered
	failed  chan struct{} // closed when err is set
	gone    chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	calls map[uint32]*call
	opID  uint32 // of the next request
	last  bool   // only requests that end the session are sent
	err   error
}

const (
	// step is how much of an answer is read before others get a look at the call.
	step = 256 << 10
	// grace is how long a caller that leaves waits for bytes that are just arriving in its buffer, or for a request that is
	// half written. After that the connection is cut.
	grace = 250 * time.Millisecond
	// patience is how many times the longest silence one request may take, while others are answered.
	patience = 4
)

func newLink(raw, conn net.Conn, opts *Options) *link {
	l := &link{
		raw: raw, conn: conn, in: bufio.NewReaderSize(conn, 32<<10), out: bufio.NewWriterSize(conn, 64<<10), timeout: opts.Timeout,
		writing: make(chan struct{}, 1), slots: make(chan struct{}, opts.InFlight),
		failed: make(chan struct{}), gone: make(chan struct{}), calls: map[uint32]*call{},
	}
	raw.SetDeadline(time.Time{})
	go l.run()
	return l
}

// run takes answers until the connection ends. Every call that is left then fails.
func (l *link) run() {
	defer close(l.gone)
	var err error
	for err == nil {
		err = l.receive()
	}
	l.fail(lost(err))
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.calls {
		delete(l.calls, id)
		c.finish(l.err)
		<-l.slots
	}
}

// fail cuts the connection. The first reason stays.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.failed)
	l.raw.Close() // not TLS's, which would wait for the host to take a last word
}

// failure is why the connection was cut; nil while it stands.
func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// do sends a request and waits for its answer.
func (l *link) do(ctx context.Context, c *call) error {
	if err := l.start(ctx, c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	if !l.abandon(c) {
		return c.err
	}
	return ctx.Err()
}

// start sends a request. After nil its answer must be waited for.
func (l *link) start(ctx context.Context, c *call) error {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.failed:
		return l.failure()
	}
	// The turn comes first and the number after: numbers ascend on the wire.
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		<-l.slots
		return ctx.Err()
	case <-l.failed:
		<-l.slots
		return l.failure()
	}
	if err := l.register(c); err != nil {
		<-l.slots
		return err
	}
	l.send(ctx, c)
	return nil
}

// register makes a call known before it is sent, since the answer may be faster than the return from the write.
func (l *link) register(c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.last && !c.last {
		return errClosed
	}
	c.opID, c.done = l.opID, make(chan struct{})
	if _, taken := l.calls[c.opID]; taken { // after 2^32 requests, with one that was never answered
		return fmt.Errorf("%w: its numbers are used up", ErrLost)
	}
	l.opID++
	l.calls[c.opID] = c
	c.overdue = time.AfterFunc(patience*l.timeout, func() {
		l.fail(lost(fmt.Errorf("no answer to a request to %s within %v", c.op, patience*l.timeout)))
	})
	if len(l.calls) == 1 {
		l.raw.SetReadDeadline(time.Now().Add(l.timeout))
	}
	return nil
}

// send writes a request. A write that is cut short leaves the stream useless, so the connection goes with it.
func (l *link) send(ctx context.Context, c *call) {
	l.raw.SetWriteDeadline(time.Now().Add(patience * l.timeout))
	shortened := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.raw.SetWriteDeadline(time.Now().Add(grace))
		close(shortened)
	})
	defer func() {
		if !stop() {
			<-shortened // or it would meet the next one's write
		}
	}()
	if err := l.write(c); err != nil {
		l.fail(lost(err))
		return
	}
	if len(c.extra) > 0 { // the host's silence counts from the end of what it was sent
		l.mu.Lock()
		if len(l.calls) > 0 {
			l.raw.SetReadDeadline(time.Now().Add(l.timeout))
		}
		l.mu.Unlock()
	}
}

func (l *link) write(c *call) error {
	var b [headLen]byte
	l.out.Write(head{c.kind, uint32(len(c.payload)), c.opID}.append(b[:0]))
	l.out.Write(c.payload)
	l.out.Write(c.extra)
	return l.out.Flush() // the writer keeps the first error
}

// abandon lets go of a call. It reports false where the call is done.
func (l *link) abandon(c *call) bool {
	l.mu.Lock()
	select {
	case <-c.done:
		l.mu.Unlock()
		return false
	default:
	}
	c.abandoned = true
	filling := c.filling
	c.released = make(chan struct{})
	l.mu.Unlock()
	if !filling {
		return true
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.released:
	case <-timer.C:
		l.fail(lost(fmt.Errorf("an answer stopped halfway: %w", context.DeadlineExceeded)))
		<-c.released
	}
	return true
}

// enter and leave stand around the goroutine's use of a call's buffer. enter reports false where nobody wants it filled.
func (l *link) enter(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.filling = !c.abandoned
	return c.filling
}

func (l *link) leave(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.filling && c.abandoned {
		close(c.released)
	}
	c.filling = false
	l.raw.SetReadDeadline(time.Now().Add(l.timeout))
}

func (l *link) read(p []byte) error {
	_, err := io.ReadFull(l.in, p)
	return err
}

// receive takes one frame.
func (l *link) receive() error {
	var b [headLen + longestFixed]byte
	if err := l.read(b[:headLen]); err != nil {
		return err
	}
	h, err := parseHead(b[:headLen])
	if err != nil {
		return err
	}
	c, err := l.find(h)
	if err != nil {
		return err
	}
	payload := b[headLen:]
	if int(h.size) > len(payload) {
		payload = make([]byte, h.size)
	}
	payload = payload[:h.size]
	if err := l.read(payload); err != nil {
		return err
	}
	if h.kind == kindError {
		l.complete(c, c.refused(payload))
		return nil
	}
	return l.take(c, payload)
}

// longestFixed is room for the payloads of fixed length.
const longestFixed = 64

// find is the call that a frame answers.
func (l *link) find(h head) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.calls[h.opID]
	switch {
	case !ok:
		return nil, broken("a message of type %d for the request %d, which is not waited for", h.kind, h.opID)
	case h.kind == kindError:
	case h.kind != c.kind:
		return nil, broken("a message of type %d for a request of type %d", h.kind, c.kind)
	case c.answer != 0 && h.size != c.answer:
		return nil, broken("an answer of %d bytes to a request to %s, not %d", h.size, c.op, c.answer)
	}
	return c, nil
}

// take handles an answer, with what follows its payload.
func (l *link) take(c *call, payload []byte) error {
	switch c.kind {
	case kindIO:
		f := parseIO(payload)
		if err := c.accept(f); err != nil {
			return err
		}
		if c.io.dir == dirRead {
			if err := l.fill(c, c.buf[f.at:f.at+f.n]); err != nil {
				return err
			}
			if c.arrived.n < c.io.total {
				return nil // the rest is on its way
			}
		}
	case kindAllocated:
		if err := checkAllocated(payload, c.payload); err != nil {
			return err
		}
		if err := l.fill(c, c.buf); err != nil {
			return err
		}
	case kindProperty:
		n, err := propertyAnswer(payload)
		if err != nil {
			return err
		}
		value := make([]byte, n)
		if err := l.read(value); err != nil {
			return err
		}
		c.reply = value
	default:
		c.reply = append([]byte(nil), payload...)
	}
	l.complete(c, nil)
	return nil
}

// fill reads into a part of a call's buffer, or past it where the caller has left.
func (l *link) fill(c *call, p []byte) (err error) {
	for len(p) > 0 && err == nil {
		n := min(len(p), step)
		if l.enter(c) {
			err = l.read(p[:n])
		} else {
			_, err = l.in.Discard(n)
		}
		l.leave(c)
		p = p[n:]
	}
	return err
}

// complete ends a call whose whole answer is there.
func (l *link) complete(c *call, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, c.opID)
	c.finish(err)
	<-l.slots
	if len(l.calls) == 0 {
		l.raw.SetReadDeadline(time.Time{}) // silence is in order again
	} else {
		l.raw.SetReadDeadline(time.Now().Add(l.timeout))
	}
}

// drain waits until every request is answered, and lets none follow. It reports whether that came about.
func (l *link) drain(ctx context.Context) bool {
	for range cap(l.slots) {
		select {
		case l.slots <- struct{}{}:
		case <-l.failed:
			return false
		case <-ctx.Done():
			return false
		}
	}
	l.mu.Lock()
	l.last = true
	l.mu.Unlock()
	for range cap(l.slots) {
		<-l.slots
	}
	return true
}

// closeFile gives a handle back. Its answer says that the host has let go of the file.
func (l *link) closeFile(ctx context.Context, handle uint64) error {
	return l.do(ctx, lastCall(kindCloseFile, binary.LittleEndian.AppendUint64(nil, handle)))
}

// goodbye closes the session, where it stands, and cuts the connection whatever comes.
func (l *link) goodbye(ctx context.Context) {
	if l.do(ctx, lastCall(kindCloseSession, words(0))) == nil {
		l.raw.SetWriteDeadline(time.Now().Add(grace))
		l.conn.Write(newClassic(classicComplete)[:]) // nobody else writes after the last request
	}
	l.fail(errClosed)
	<-l.gone
}
