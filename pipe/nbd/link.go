package nbd

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

// link is one connection in transmission: requests go out one after another, and a goroutine of its own takes the
// answers in whatever order they come.
//
// A call belongs to its caller until it is sent, to the link until done is closed, and to its caller again after that. A
// caller that leaves early abandons its call: what still arrives for it is read and dropped, since the stream has no
// other way to go on.
type link struct {
	terms   *terms
	raw     net.Conn
	conn    net.Conn // raw, or TLS over it
	in      *bufio.Reader
	timeout time.Duration

	writing chan struct{} // holds the turn to write
	slots   chan struct{} // one for each request in flight
	failed  chan struct{} // closed when err is set
	gone    chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	calls  map[uint64]*call
	cookie uint64
	err    error
}

const (
	// step is how much of a payload is read before others get a look at the call.
	step = 256 << 10
	// grace is how long a caller that leaves waits for the bytes that are just arriving in its buffer, or for a header
	// that is half written. After that the connection is cut.
	grace = 250 * time.Millisecond
	// patience is how many times the longest silence one request may take, while others are answered.
	patience = 4
)

func newLink(h *haggling, t *terms) *link {
	l := &link{
		terms: t, raw: h.raw, conn: h.conn, in: bufio.NewReaderSize(h.conn, 32<<10), timeout: h.opts.Timeout,
		writing: make(chan struct{}, 1), slots: make(chan struct{}, h.opts.InFlight),
		failed: make(chan struct{}), gone: make(chan struct{}), calls: map[uint64]*call{},
	}
	l.raw.SetDeadline(time.Time{})
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
	l.fail(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	for cookie, c := range l.calls {
		delete(l.calls, cookie)
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
	l.raw.Close() // not TLS's, which would wait for the peer to take a last word
}

// failure is why the connection was cut; nil while it stands.
func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// lost says that a connection is over, unless the peer broke the protocol, which says more.
func lost(err error) error { return fmt.Errorf("%w: %w", ErrLost, noEOF(err)) }

// start sends a request. Its answer is waited for by wait, which must be called if start returned nil.
func (l *link) start(ctx context.Context, c *call, payload []byte) error {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.failed:
		return l.failure()
	}
	if err := l.register(c); err != nil {
		<-l.slots
		return err
	}
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		l.withdraw(c)
		return ctx.Err()
	case <-l.failed:
		return nil // the goroutine fails the call
	}
	l.send(ctx, c, payload)
	return nil
}

// register makes a call known before it is sent, since the answer may be faster than the return from the write.
func (l *link) register(c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.cookie++
	c.req.cookie, c.terms, c.done = l.cookie, l.terms, make(chan struct{})
	l.calls[c.req.cookie] = c
	c.overdue = time.AfterFunc(patience*l.timeout, func() {
		l.fail(lost(fmt.Errorf("no answer to a %v within %v", c.req.cmd, patience*l.timeout)))
	})
	if len(l.calls) == 1 {
		l.raw.SetReadDeadline(time.Now().Add(l.timeout))
	}
	return nil
}

// withdraw takes back a call that was not sent.
func (l *link) withdraw(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.calls[c.req.cookie]; ok {
		delete(l.calls, c.req.cookie)
		c.finish(context.Canceled)
		<-l.slots
	}
}

// send writes a request. A write that is cut short leaves the stream useless, so the connection goes with it.
func (l *link) send(ctx context.Context, c *call, payload []byte) {
	l.conn.SetWriteDeadline(time.Now().Add(patience * l.timeout))
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
	header := c.req.append(make([]byte, 0, 32), l.terms.form)
	buffers := net.Buffers{header, payload}
	if len(payload) == 0 {
		buffers = buffers[:1]
	}
	if _, err := buffers.WriteTo(l.conn); err != nil {
		l.fail(lost(err))
	}
}

// wait returns when the call is done, or with the context. The call's buffer is the caller's again.
func (l *link) wait(ctx context.Context, c *call) error {
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

// read reads exactly len(p) bytes.
func (l *link) read(p []byte) error {
	if _, err := io.ReadFull(l.in, p); err != nil {
		return lost(err)
	}
	return nil
}

// receive takes one message.
func (l *link) receive() error {
	magic, err := l.in.Peek(4)
	if err != nil {
		return lost(err)
	}
	form := l.terms.form
	switch m := binary.BigEndian.Uint32(magic); {
	case m == magicSimpleReply && form != formExtended:
		return l.receiveSimple()
	case m == magicChunk && form == formStructured, m == magicExtendedChunk && form == formExtended:
		return l.receiveChunk()
	default:
		return broken("an answer starts with %#x", m)
	}
}

// find is the call that an answer belongs to.
func (l *link) find(cookie uint64) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.calls[cookie]
	if !ok {
		return nil, broken("an answer to the cookie %#x, which no request has", cookie)
	}
	return c, nil
}

func (l *link) receiveSimple() error {
	var b [16]byte
	if err := l.read(b[:]); err != nil {
		return err
	}
	c, err := l.find(binary.BigEndian.Uint64(b[8:]))
	if err != nil {
		return err
	}
	switch errno := Errno(binary.BigEndian.Uint32(b[4:])); {
	case c.req.cmd == cmdRead && l.terms.form != formSimple || c.req.cmd == cmdBlockStatus && errno == 0:
		return broken("a simple answer to a %v", c.req.cmd)
	case errno != 0:
		c.refuse(c.req.off, &ServerError{Errno: errno})
	case c.req.cmd == cmdRead:
		c.arrived.add(0, c.req.n)
		if err := l.fill(c, 0, c.req.n); err != nil {
			return err
		}
	}
	return l.complete(c)
}

func (l *link) receiveChunk() error {
	var b [32]byte
	header := b[:l.terms.form.chunkLen()]
	if err := l.read(header); err != nil {
		return err
	}
	h := parseChunk(header, l.terms.form)
	c, err := l.find(h.cookie)
	if err != nil {
		return err
	}
	if l.terms.form == formExtended && h.off != c.req.off {
		return broken("a chunk for offset %d in the answer to a %v at %d", h.off, c.req.cmd, c.req.off)
	}
	if err := l.receivePayload(c, h); err != nil {
		return err
	}
	if h.flags&chunkFlagDone != 0 {
		return l.complete(c)
	}
	return nil
}

// complete ends a call whose whole answer is there.
func (l *link) complete(c *call) error {
	err := c.whole(len(l.terms.contexts))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, c.req.cookie)
	c.finish(nil)
	<-l.slots
	if len(l.calls) == 0 {
		l.raw.SetReadDeadline(time.Time{}) // silence is in order again
	} else {
		l.raw.SetReadDeadline(time.Now().Add(l.timeout))
	}
	return nil
}

// close ends the connection in good order where that can be done at once.
func (l *link) close() {
	select {
	case l.writing <- struct{}{}:
		l.conn.SetWriteDeadline(time.Now().Add(grace))
		l.conn.Write(request{cmd: cmdDisconnect}.append(nil, l.terms.form))
		if l.conn != l.raw {
			cut := time.AfterFunc(grace, func() { l.raw.Close() })
			l.conn.Close() // tells the peer that the end is not a cut
			cut.Stop()
		}
	default:
	}
	l.fail(errClosed)
	<-l.gone
}
