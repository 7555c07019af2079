package libvirt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Timeout bounds a call, and Dial, where the context has no deadline of its own.
const Timeout = 30 * time.Second

// Conn is a connection to a daemon. Its methods are safe for concurrent use.
type Conn struct {
	net     net.Conn
	writing sync.Mutex // whole packets, one after the other

	mu      sync.Mutex
	serial  uint32
	waiting map[uint32]chan *packet
	err     error         // why the connection has ended
	ended   chan struct{} // the reader has
}

// Dial connects to the daemon at a unix socket, and opens a driver there, such as qemu:///system. That there is no
// daemon is a *DaemonError.
func Dial(ctx context.Context, socket, uri string) (*Conn, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		var conn *Conn
		if conn, err = New(ctx, c, uri); err == nil {
			return conn, nil
		}
	}
	return nil, &DaemonError{Socket: socket, Err: err}
}

// New speaks over a connection, which it owns from now on, on error too.
func New(ctx context.Context, c net.Conn, uri string) (*Conn, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	conn := &Conn{net: c, waiting: map[uint32]chan *packet{}, ended: make(chan struct{})}
	go conn.read()
	if err := conn.open(ctx, uri); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, Timeout)
}

// Close ends the connection. Calls under way return ErrClosed; whether they were done is not known.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	<-c.ended
	return nil
}

// fail ends the connection for a reason; the first one counts.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.net.Close()
}

func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || errors.Is(c.err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// read is the only one that reads. What is no reply to a call is an event, and nobody asked for any.
func (c *Conn) read() {
	defer close(c.ended)
	r := bufio.NewReaderSize(c.net, 64<<10)
	for {
		p, err := readPacket(r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrClosed
			}
			c.fail(err)
			return
		}
		if p.kind == typeReply {
			c.deliver(p)
		}
	}
}

func (c *Conn) deliver(p *packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[p.serial]; ok {
		delete(c.waiting, p.serial)
		answer <- p
	}
}

// call is one question: build writes its arguments, take reads the result, both may be nil.
type call struct {
	name      string
	program   uint32
	procedure uint32
	build     func(e *encoder)
	take      func(d *decoder)
}

// do makes a call and waits for its reply. When the context ends first the daemon may still do what was asked.
func (c *Conn) do(ctx context.Context, q call) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var e encoder
	if q.build != nil {
		q.build(&e)
	}
	serial, answer := c.expect()
	defer c.forget(serial)
	p := packet{program: q.program, procedure: q.procedure, kind: typeCall, serial: serial, payload: e.b}
	if err := c.send(ctx, &p); err != nil {
		return fmt.Errorf("libvirt: %s: %w", q.name, err)
	}
	select {
	case p := <-answer:
		return q.result(p)
	case <-c.ended:
		return fmt.Errorf("libvirt: %s: %w", q.name, c.reason())
	case <-ctx.Done():
		return fmt.Errorf("libvirt: %s: no answer: %w", q.name, ctx.Err())
	}
}

func (c *Conn) expect() (serial uint32, answer chan *packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	answer = make(chan *packet, 1)
	c.waiting[c.serial] = answer
	return c.serial, answer
}

func (c *Conn) forget(serial uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, serial)
}

// send writes a packet whole, or ends the connection.
func (c *Conn) send(ctx context.Context, p *packet) error {
	text, err := p.encode()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	deadline, _ := ctx.Deadline()
	c.net.SetWriteDeadline(deadline)
	if _, err := c.net.Write(text); err != nil {
		c.fail(err)
		return c.reason()
	}
	return nil
}

// result reads a reply.
func (q *call) result(p *packet) error {
	d := decoder{b: p.payload}
	switch {
	case p.program != q.program || p.procedure != q.procedure:
		return fmt.Errorf("libvirt: %s: %w: the reply is to procedure %d of %#x", q.name, ErrProtocol, p.procedure, p.program)
	case p.status == statusError:
		return q.refusal(&d)
	case p.status != statusOK:
		return fmt.Errorf("libvirt: %s: %w: status %d", q.name, ErrProtocol, p.status)
	}
	if q.take != nil {
		q.take(&d)
	}
	if err := d.end(); err != nil {
		return fmt.Errorf("libvirt: %s: %w", q.name, err)
	}
	return nil
}

// refusal reads an error. What follows its text says which domain or network it is about, and is not needed.
func (q *call) refusal(d *decoder) error {
	e := &Error{Call: q.name, Code: d.int(), Origin: d.int(), Message: d.optionalText()}
	if d.err != nil {
		return fmt.Errorf("libvirt: %s: %w", q.name, d.err)
	}
	return e
}
