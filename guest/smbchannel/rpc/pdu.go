package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds of what is sent and taken.
const (
	FragmentSize = 4280     // bytes, header included: what Windows offers
	minFragment  = 1432     // that both sides must be able to take (C706 12.6.3.1)
	MaxAnswer    = 64 << 10 // bytes of an answer, over all of its fragments
	headerSize   = 16
	bodyHeader   = 8 // of request, response and fault
)

// Types of fragments (C706 12.6.4).
const (
	typeRequest  = 0
	typeResponse = 2
	typeFault    = 3
	typeBind     = 11
	typeBindAck  = 12
	typeBindNak  = 13
)

const (
	flagFirst = 1
	flagLast  = 2
	flagWhole = flagFirst | flagLast
)

// ErrMalformed is wrapped by every error of decoding: the peer does not speak this protocol.
var ErrMalformed = errors.New("malformed remote procedure call")

// fragment is one as it is, without its header.
type fragment struct {
	kind  byte
	flags byte
	call  uint32
	body  []byte
}

// write writes a fragment with one call of w.Write: a pipe keeps messages apart.
func (f fragment) write(w io.Writer) error {
	length := headerSize + len(f.body)
	if length > FragmentSize {
		return fmt.Errorf("a fragment of %d bytes, at most %d", length, FragmentSize)
	}
	b := make([]byte, headerSize, length)
	b[0], b[2], b[3], b[4] = 5, f.kind, f.flags, 0x10
	binary.LittleEndian.PutUint16(b[8:], uint16(length))
	binary.LittleEndian.PutUint32(b[12:], f.call)
	_, err := w.Write(append(b, f.body...))
	return err
}

// readFragment reads one. The error is io.EOF only where nothing came.
func readFragment(r io.Reader) (fragment, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return fragment{}, err
	}
	length := int(binary.LittleEndian.Uint16(h[8:]))
	switch {
	case h[0] != 5 || h[1] > 1:
		return fragment{}, fmt.Errorf("%w: version %d.%d", ErrMalformed, h[0], h[1])
	case h[4] != 0x10 || h[5] != 0:
		return fragment{}, fmt.Errorf("%w: data representation %x", ErrMalformed, h[4:8])
	case h[10]|h[11] != 0:
		return fragment{}, fmt.Errorf("%w: security that was not asked for", ErrMalformed)
	case length < headerSize || length > FragmentSize:
		return fragment{}, fmt.Errorf("%w: a fragment of %d bytes", ErrMalformed, length)
	}
	f := fragment{kind: h[2], flags: h[3], call: binary.LittleEndian.Uint32(h[12:]), body: make([]byte, length-headerSize)}
	if _, err := io.ReadFull(r, f.body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fragment{}, err
	}
	return f, nil
}

// Interface names a set of procedures: its UUID as NDR writes it, and its version.
type Interface struct {
	UUID  [16]byte
	Major uint16
	Minor uint16
}

// ndr20 is the one transfer syntax: 8a885d04-1ceb-11c9-9fe8-08002b104860, version 2.
var ndr20 = Interface{Major: 2, UUID: [16]byte{
	0x04, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48, 0x60,
}}

func (i Interface) put(w *Writer) {
	w.Bytes(i.UUID[:])
	w.Uint16(i.Major)
	w.Uint16(i.Minor)
}

func getInterface(r *Reader) (i Interface) {
	copy(i.UUID[:], r.Bytes(16))
	i.Major, i.Minor = r.Uint16(), r.Uint16()
	return i
}

// bindBody is that of bind: one context, numbered 0, in NDR 2.0.
func bindBody(i Interface) []byte {
	var w Writer
	w.Uint16(FragmentSize)
	w.Uint16(FragmentSize)
	w.Uint32(0) // a new group
	w.Uint32(1) // one context
	w.Uint16(0)
	w.Uint16(1) // one transfer syntax
	i.put(&w)
	ndr20.put(&w)
	return w.Data
}

// asked is what a bind asks for.
type asked struct {
	Interface        // of its first context
	context   uint16 // that context's number, which is the caller's choice
	contexts  int
	ndr       bool // the first offers NDR 2.0
}

// readBind reads the body of a bind.
func readBind(body []byte) (b asked, err error) {
	r := Reader{Data: body}
	r.Bytes(8)
	b.contexts = int(r.Uint32() & 0xff)
	for n := range b.contexts {
		number, syntaxes := r.Uint16(), int(r.Uint16()&0xff)
		abstract := getInterface(&r)
		if n == 0 {
			b.Interface, b.context = abstract, number
		}
		for range syntaxes {
			syntax := getInterface(&r)
			b.ndr = b.ndr || n == 0 && syntax == ndr20
		}
	}
	if b.contexts == 0 {
		r.Fail("a bind of nothing")
	}
	return b, r.End()
}

// bindAckBody accepts the first context of several and refuses the others, or refuses all.
func bindAckBody(pipe string, accepted bool, contexts int) []byte {
	var w Writer
	w.Uint16(FragmentSize)
	w.Uint16(FragmentSize)
	w.Uint32(0x53f0)
	w.Uint16(uint16(len(pipe) + 1))
	w.Bytes(append([]byte(pipe), 0))
	w.Align(4)
	w.Uint32(uint32(contexts))
	for n := range contexts {
		if accepted && n == 0 {
			w.Uint32(0)
			ndr20.put(&w)
			continue
		}
		w.Uint16(2) // the provider rejects it
		w.Uint16(1) // abstract syntax not supported
		Interface{}.put(&w)
	}
	return w.Data
}

// readBindAck checks that the one context was accepted, and returns how many bytes a fragment to the peer may have.
func readBindAck(body []byte) (fragment int, err error) {
	r := Reader{Data: body}
	r.Uint16() // what it sends at most, which is what we said that we take or less
	fragment = int(r.Uint16())
	r.Uint32()
	r.Bytes(int(r.Uint16())) // its own name for the pipe
	r.Align(4)
	results := r.Uint32() & 0xff
	result, reason := r.Uint16(), r.Uint16()
	syntax := getInterface(&r)
	if err := r.End(); err != nil {
		return 0, err
	}
	switch {
	case results != 1:
		return 0, fmt.Errorf("%w: %d results of one context", ErrMalformed, results)
	case result != 0:
		return 0, &BindError{Result: result, Reason: reason}
	case syntax != ndr20 || fragment < minFragment:
		return 0, fmt.Errorf("%w: bound in a way that was not offered", ErrMalformed)
	}
	return min(fragment, FragmentSize), nil
}
