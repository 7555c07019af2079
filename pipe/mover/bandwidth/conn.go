package bandwidth

import (
	"net"
	"os"
	"sync"
	"time"
)

// shaped is a connection under limits.
type shaped struct {
	net.Conn
	read, write side
	debt        int // bytes that were read and are not paid for; only the one who has read's turn touches it
	once        sync.Once
	closed      chan struct{}
	closeErr    error
}

// side is one direction of a connection.
type side struct {
	pool     *pool
	flow     *flow
	turn     chan struct{} // holds one token: whoever has it may ask
	deadline *deadline
}

func newSide(p *pool, name string) side {
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return side{pool: p, flow: p.join(name), turn: turn, deadline: newDeadline()}
}

// NetConn is the connection that is limited.
func (c *shaped) NetConn() net.Conn { return c.Conn }

// Write writes p in pieces as they are granted. The connection may have taken a part of p when it fails.
func (c *shaped) Write(p []byte) (written int, err error) {
	if err := c.begin(&c.write); err != nil {
		return 0, c.failed("write", err)
	}
	defer c.write.end()
	for {
		n, err := c.grant(&c.write, min(len(p)-written, freePiece))
		if err != nil {
			return written, c.failed("write", err)
		}
		m, err := c.Conn.Write(p[written : written+n])
		written += m
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// Read pays for the last read, then reads.
func (c *shaped) Read(p []byte) (int, error) {
	if err := c.begin(&c.read); err != nil {
		return 0, c.failed("read", err)
	}
	defer c.read.end()
	for c.debt > 0 {
		n, err := c.grant(&c.read, c.debt)
		if err != nil {
			return 0, c.failed("read", err)
		}
		c.debt -= n
	}
	bound, limited := c.read.pool.bound(time.Now())
	n, err := c.Conn.Read(p[:min(len(p), bound)])
	if limited {
		c.debt = n
	}
	return n, err
}

// begin waits for the turn of this side.
func (c *shaped) begin(s *side) error {
	select {
	case <-s.turn:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-s.deadline.passed():
		return os.ErrDeadlineExceeded
	}
}

func (s *side) end() { s.turn <- struct{}{} }

// grant waits until some of n bytes may pass, and returns how many. It is for whoever has the side's turn.
func (c *shaped) grant(s *side, n int) (int, error) {
	passed := s.deadline.passed()
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	if n == 0 {
		return 0, nil
	}
	if m := s.pool.ask(s.flow, n); m > 0 {
		return m, nil
	}
	err := net.ErrClosed
	select {
	case m := <-s.flow.granted:
		return m, nil
	case <-passed:
		err = os.ErrDeadlineExceeded
	case <-c.closed:
	}
	if m := s.pool.withdraw(s.flow); m > 0 && err != net.ErrClosed {
		return m, nil
	}
	return 0, err
}

// failed is an error of ours in the form that callers know from package net.
func (c *shaped) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close ends waits, closes the connection and takes it out of its session.
func (c *shaped) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.closeErr = c.Conn.Close()
		for _, s := range []*side{&c.read, &c.write} {
			s.deadline.set(time.Time{})
			s.pool.leave(s.flow)
		}
	})
	return c.closeErr
}

// SetDeadline sets both deadlines.
func (c *shaped) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends a read under way, also one that waits for a limit.
func (c *shaped) SetReadDeadline(t time.Time) error {
	err := c.Conn.SetReadDeadline(t)
	if err == nil {
		c.read.deadline.set(t)
	}
	return err
}

// SetWriteDeadline ends a write under way, also one that waits for a limit.
func (c *shaped) SetWriteDeadline(t time.Time) error {
	err := c.Conn.SetWriteDeadline(t)
	if err == nil {
		c.write.deadline.set(t)
	}
	return err
}
