package rpc

import (
	"errors"
	"fmt"
	"io"
)

// Handler carries out a procedure. A [Fault] is what the caller gets instead of results; any other error ends the
// association.
type Handler func(procedure uint16, args []byte) (results []byte, err error)

// Serve is the other side of an association, for doubles of a machine: it binds a caller to one interface and hands
// its calls to handle, one at a time, until the pipe ends, which is nil. It does not close the pipe.
func Serve(pipe io.ReadWriter, name string, i Interface, handle Handler) error {
	s := server{pipe: pipe, name: name, serves: i, handle: handle}
	for {
		f, err := readFragment(pipe)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := s.answer(f); err != nil {
			return err
		}
	}
}

type server struct {
	pipe   io.Writer
	name   string
	serves Interface
	handle Handler
	bound  bool
	number uint16 // of the context
	args   []byte // of a request whose last fragment did not come yet
}

func (s *server) answer(f fragment) error {
	switch f.kind {
	case typeBind:
		b, err := readBind(f.body)
		if err != nil {
			return err
		}
		s.bound, s.number = b.ndr && b.Interface == s.serves, b.context
		return fragment{kind: typeBindAck, flags: flagWhole, call: f.call, body: bindAckBody(s.name, s.bound, b.contexts)}.write(s.pipe)
	case typeRequest:
		return s.request(f)
	}
	return fmt.Errorf("%w: type %d for a request", ErrMalformed, f.kind)
}

func (s *server) request(f fragment) error {
	r := Reader{Data: f.body}
	r.Uint32()
	context, procedure := r.Uint16(), r.Uint16()
	if r.Err() != nil {
		return r.Err()
	}
	s.args = append(s.args, f.body[bodyHeader:]...)
	switch {
	case !s.bound || context != s.number:
		return fmt.Errorf("%w: a request of an interface that is not bound", ErrMalformed)
	case len(s.args) > MaxAnswer:
		return fmt.Errorf("%w: arguments of %d bytes", ErrMalformed, len(s.args))
	case f.flags&flagLast == 0:
		return nil
	}
	results, err := s.handle(procedure, s.args)
	s.args = nil
	var fault *Fault
	switch {
	case errors.As(err, &fault):
		return s.fault(f.call, fault.Status)
	case err != nil:
		return err
	}
	return s.results(f.call, results)
}

func (s *server) fault(call, status uint32) error {
	var w Writer
	w.Uint32(0)
	w.Uint32(uint32(s.number))
	w.Uint32(status)
	w.Uint32(0)
	return fragment{kind: typeFault, flags: flagWhole, call: call, body: w.Data}.write(s.pipe)
}

func (s *server) results(call uint32, results []byte) error {
	const most = FragmentSize - headerSize - bodyHeader
	flags := byte(flagFirst)
	for {
		part := results[:min(len(results), most)]
		results = results[len(part):]
		if len(results) == 0 {
			flags |= flagLast
		}
		var w Writer
		w.Uint32(uint32(len(part) + len(results)))
		w.Uint32(uint32(s.number))
		w.Bytes(part)
		if err := (fragment{kind: typeResponse, flags: flags, call: call, body: w.Data}).write(s.pipe); err != nil {
			return err
		}
		if flags&flagLast != 0 {
			return nil
		}
		flags = 0
	}
}
