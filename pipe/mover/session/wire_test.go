package session

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stream is one direction of a connection in memory, with a buffer like a kernel's.
type stream struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	room   int
	cut    int64         // breaks when so many bytes have passed; negative: never
	delay  time.Duration // until what is written can be read
	passed int64
	eof    bool  // the writer has closed
	broken error // for both ends
	dark   bool  // what is written is never read, and nobody is told of anything
	darkAt int64 // it goes dark, with the other direction, when so many bytes have passed; 0: never
	twin   *stream
}

func newStream(room int) *stream {
	s := &stream{room: room, cut: -1}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// do changes the stream and wakes who waits.
func (s *stream) do(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	s.cond.Broadcast()
}

// memConn is one end.
type memConn struct {
	in, out     *stream
	readBy      deadlineOf
	writeBy     deadlineOf
	closed      bool // under both locks' owners: in.mu
	closedWrite bool
}

type deadlineOf struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
}

func (d *deadlineOf) set(t time.Time, s *stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() { s.do(func() {}) })
	}
}

func (d *deadlineOf) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !time.Now().Before(d.at)
}

// memPair is a connection. room is what each direction holds unread.
func memPair(room int) (*memConn, *memConn) {
	a, b := newStream(room), newStream(room)
	a.twin, b.twin = b, a
	return &memConn{in: a, out: b}, &memConn{in: b, out: a}
}

func (c *memConn) Read(p []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case s.dark:
		case len(s.buf) > 0:
			n := copy(p, s.buf)
			s.buf = s.buf[n:]
			s.cond.Broadcast()
			return n, nil
		case s.broken != nil:
			return 0, s.broken
		case s.eof:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (c *memConn) Write(p []byte) (n int, err error) {
	if d := c.out.delay; d > 0 {
		time.Sleep(d)
	}
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) {
		switch {
		case c.closedWrite:
			return n, net.ErrClosed
		case c.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case s.dark && len(s.buf) < s.room:
			s.buf = append(s.buf, p[n])
			n++
			continue
		case s.broken != nil && !s.dark:
			return n, s.broken
		case len(s.buf) < s.room:
			take := min(len(p)-n, s.room-len(s.buf))
			if s.cut >= 0 {
				take = int(min(int64(take), s.cut-s.passed))
			}
			s.buf = append(s.buf, p[n:n+take]...)
			s.passed += int64(take)
			n += take
			if s.cut >= 0 && s.passed >= s.cut {
				s.broken = syscall.ECONNRESET
				go c.in.do(func() { c.in.broken = syscall.ECONNRESET })
			}
			if s.darkAt > 0 && s.passed >= s.darkAt {
				s.dark = true
				go s.twin.do(func() { s.twin.dark = true })
			}
			s.cond.Broadcast()
			continue
		}
		s.cond.Wait()
	}
	return n, nil
}

func (c *memConn) Close() error {
	c.in.do(func() { c.closed = true; c.in.broken = syscall.EPIPE })
	return c.CloseWrite()
}

func (c *memConn) CloseWrite() error {
	c.out.do(func() { c.closedWrite, c.out.eof = true, true })
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t, c.in)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t, c.out)
	return nil
}

func (*memConn) LocalAddr() net.Addr  { return memAddr{} }
func (*memConn) RemoteAddr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "mem" }

// done is closed when this end was closed.
func (c *memConn) done() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		for !c.closed {
			c.in.cond.Wait()
		}
	}()
	return done
}
