package remote

import (
	"context"
	"net"
	"time"
)

// deadline is when a wait is over.
type deadline struct {
	passed bool
	timer  *time.Timer
	turn   int // counts settings: a timer of an earlier one means nothing
}

// set changes a deadline of the stream's. The zero time is none.
func (s *stream) set(d *deadline, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.turn++
	d.passed, d.timer = false, nil
	if t.IsZero() {
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(max(0, time.Until(t)), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.turn == turn {
			d.passed = true
			s.cond.Broadcast()
		}
	})
}

// DialGuest connects to a persistent component's port from the proxy. What is written is carried to it as it is, over
// however many connections to the proxy; the TLS that is to be spoken on it is the caller's. Close ends it.
func (c *Client) DialGuest(ctx context.Context, name, address string) (net.Conn, error) {
	s, err := c.begin(ctx, name)
	if err != nil {
		return nil, err
	}
	st := s.carry()
	limit := time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		limit = min(max(time.Until(end), time.Millisecond), mostLimit)
	}
	if err := s.call(ctx, verbDial, dialArgs{Guest: name, Address: address, LimitMillis: limit.Milliseconds()}, &dialAnswer{}); err != nil {
		s.leave()
		return nil, err
	}
	return &guestConn{stream: st, session: s, address: address}, nil
}

// guestConn is a stream as a connection.
type guestConn struct {
	*stream
	session *session
	address string
}

// lingerTime is how long what was written last may take to arrive.
const lingerTime = 5 * time.Second

// Close ends the connection. What was written before is sent; whether the other side reads it is not waited for.
func (c *guestConn) Close() error {
	err := c.stream.Close()
	go func() {
		end := time.NewTimer(lingerTime)
		defer end.Stop()
		select {
		case <-c.stream.drained():
		case <-c.session.ctx.Done():
		case <-end.C:
		}
		c.session.leave()
	}()
	return err
}

func (c *guestConn) LocalAddr() net.Addr  { return farAddr("proxy " + c.session.client.opts.Name) }
func (c *guestConn) RemoteAddr() net.Addr { return farAddr(c.address) }

func (c *guestConn) SetDeadline(t time.Time) error {
	c.stream.set(&c.stream.reading, t)
	c.stream.set(&c.stream.writing, t)
	return nil
}

func (c *guestConn) SetReadDeadline(t time.Time) error {
	c.stream.set(&c.stream.reading, t)
	return nil
}

func (c *guestConn) SetWriteDeadline(t time.Time) error {
	c.stream.set(&c.stream.writing, t)
	return nil
}

// farAddr is an address as the proxy sees it.
type farAddr string

func (farAddr) Network() string  { return "tcp" }
func (a farAddr) String() string { return string(a) }
