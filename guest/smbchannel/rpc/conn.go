package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ErrClosed says that the association was closed, or given up after an error.
var ErrClosed = errors.New("the association is closed")

// Conn is an association with one interface. Calls are made one at a time. After an error other than a [Fault] it is
// closed; some servers close it after a fault too.
type Conn struct {
	mu       sync.Mutex
	pipe     io.ReadWriteCloser
	fragment int // bytes that the peer takes
	call     uint32
	closed   bool
}

// Bind asks for an interface. The pipe is the association's from here on, and is closed on an error.
func Bind(ctx context.Context, pipe io.ReadWriteCloser, i Interface) (*Conn, error) {
	c := &Conn{pipe: pipe, fragment: FragmentSize}
	err := c.bounded(ctx, func() error { return c.bind(i) })
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("bind: %w", err)
	}
	return c, nil
}

func (c *Conn) bind(i Interface) error {
	c.call++
	if err := (fragment{kind: typeBind, flags: flagWhole, call: c.call, body: bindBody(i)}).write(c.pipe); err != nil {
		return err
	}
	f, err := readFragment(c.pipe)
	if err != nil {
		return err
	}
	switch {
	case f.call != c.call || f.flags&flagWhole != flagWhole:
		return fmt.Errorf("%w: an answer to something else", ErrMalformed)
	case f.kind == typeBindNak:
		r := Reader{Data: f.body}
		return &BindError{Nak: true, Reason: r.Uint16()}
	case f.kind != typeBindAck:
		return fmt.Errorf("%w: type %d for a bind", ErrMalformed, f.kind)
	}
	c.fragment, err = readBindAck(f.body)
	return err
}

// Call calls a procedure and returns the bytes of its results. Arguments must fit into one fragment.
func (c *Conn) Call(ctx context.Context, procedure uint16, args []byte) (results []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if len(args) > c.fragment-headerSize-bodyHeader {
		return nil, fmt.Errorf("arguments of %d bytes, at most %d", len(args), c.fragment-headerSize-bodyHeader)
	}
	err = c.bounded(ctx, func() error {
		results, err = c.exchange(procedure, args)
		return err
	})
	var fault *Fault
	if err != nil && !errors.As(err, &fault) {
		c.close()
	}
	return results, err
}

func (c *Conn) exchange(procedure uint16, args []byte) ([]byte, error) {
	c.call++
	var w Writer
	w.Uint32(uint32(len(args)))
	w.Uint16(0)
	w.Uint16(procedure)
	w.Bytes(args)
	if err := (fragment{kind: typeRequest, flags: flagWhole, call: c.call, body: w.Data}).write(c.pipe); err != nil {
		return nil, err
	}
	return c.answer()
}

// answer puts the fragments of an answer together.
func (c *Conn) answer() (results []byte, err error) {
	for first := true; ; first = false {
		f, err := readFragment(c.pipe)
		if err != nil {
			return nil, err
		}
		switch {
		case f.call != c.call:
			return nil, fmt.Errorf("%w: an answer to call %d, not %d", ErrMalformed, f.call, c.call)
		case len(f.body) < bodyHeader:
			return nil, fmt.Errorf("%w: an answer of %d bytes", ErrMalformed, len(f.body))
		case f.kind == typeFault:
			r := Reader{Data: f.body}
			r.Bytes(bodyHeader)
			status := r.Uint32()
			if r.Err() != nil {
				return nil, r.Err()
			}
			return nil, &Fault{Status: status}
		case f.kind != typeResponse:
			return nil, fmt.Errorf("%w: type %d for an answer", ErrMalformed, f.kind)
		case (f.flags&flagFirst != 0) != first || len(results)+len(f.body) > MaxAnswer || f.flags&flagLast == 0 && len(f.body) == bodyHeader:
			return nil, fmt.Errorf("%w: fragments that make no answer", ErrMalformed)
		}
		results = append(results, f.body[bodyHeader:]...)
		if f.flags&flagLast != 0 {
			return results, nil
		}
	}
}

// bounded ends what waits when the context does, by closing the pipe.
func (c *Conn) bounded(ctx context.Context, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.pipe.Close() })
	err := call()
	if !stop() && err != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func (c *Conn) close() {
	c.closed = true
	_ = c.pipe.Close()
}

// Close ends the association.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.pipe.Close()
}
