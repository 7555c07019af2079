package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// HeaderSize is the length of a frame's header in bytes:
//
//	0  4  length of the payload
//	4  1  kind of the message
//	5  3  zero
//	8  8  number of the call that it belongs to; 0 where it belongs to none
//
// All numbers are big-endian.
const HeaderSize = 16

// MaxFrame bounds every frame, header included.
const MaxFrame = HeaderSize + maxPayload

const maxPayload = maxData + maxFields

// ErrMalformed is wrapped by every error of decoding: the peer does not speak this protocol.
var ErrMalformed = errors.New("malformed message")

// Frame is one message with the call that it belongs to.
type Frame struct {
	Call    uint64
	Message Message
}

// Append appends the frame's bytes to dst. It fails where a field is longer than its bound, and then returns dst as it
// was. It changes nothing in the message.
func Append(dst []byte, f Frame) ([]byte, error) {
	b, content, err := Split(dst, f)
	if err != nil {
		return b, err
	}
	return append(b, content...), nil
}

// Reader reads frames from a stream. What it returns may refer to memory that the next Read overwrites, unless the
// caller takes it with Take.
type Reader struct {
	r       io.Reader
	header  [HeaderSize]byte
	buf     []byte
	largest int // payload that has come whole

	lend func(n int) []byte
	lent bool
	own  []byte // while buf is lent
}

// NewReader returns a reader of frames. It reads ahead nothing.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Read reads one frame. The error is io.EOF only between two frames.
func (r *Reader) Read() (Frame, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return Frame{}, err
	}
	kind, call := Kind(r.header[4]), binary.BigEndian.Uint64(r.header[8:])
	n := int64(binary.BigEndian.Uint32(r.header[:]))
	make, ok := makers[kind]
	switch {
	case !ok:
		return Frame{}, fmt.Errorf("%w: unknown kind %d", ErrMalformed, kind)
	case r.header[5]|r.header[6]|r.header[7] != 0:
		return Frame{}, fmt.Errorf("%w: %v: reserved bytes are set", ErrMalformed, kind)
	case kind.InCall() != (call > 0):
		return Frame{}, fmt.Errorf("%w: %v: call %d", ErrMalformed, kind, call)
	case n > int64(bound(kind)):
		return Frame{}, fmt.Errorf("%w: %v of %d bytes, at most %d", ErrMalformed, kind, n, bound(kind))
	}
	if err := r.fill(int(n)); err != nil {
		return Frame{}, fmt.Errorf("%v of %d bytes: %w", kind, n, unexpected(err))
	}
	m := make()
	if err := decode(m, r.buf[:n]); err != nil {
		return Frame{}, fmt.Errorf("%w: %v: %w", ErrMalformed, kind, err)
	}
	return Frame{Call: call, Message: m}, nil
}

// Take hands the memory that the last frame refers to over to the caller: the next Read uses other memory.
func (r *Reader) Take() { r.buf = nil }

// fill reads n bytes into the buffer. It makes room for four times what has arrived, or for what arrived whole once
// before: a peer that announces much and sends little gets little.
func (r *Reader) fill(n int) error {
	const step = 64 << 10
	r.giveBack()
	if n > lendFrom && r.lend != nil {
		return r.borrow(n)
	}
	if n <= step && cap(r.buf) > 16*step {
		r.buf = nil // a lane that has gone quiet holds no large memory
	}
	for have := 0; ; {
		room := max(cap(r.buf), step, r.largest, 4*have)
		r.grow(have, min(n, room))
		if _, err := io.ReadFull(r.r, r.buf[have:]); err != nil {
			return err
		}
		if have = len(r.buf); have == n {
			r.largest = max(r.largest, n)
			return nil
		}
	}
}

// grow makes the buffer n bytes long and keeps the first have of them.
func (r *Reader) grow(have, n int) {
	if n > cap(r.buf) {
		b := make([]byte, n)
		copy(b, r.buf[:have])
		r.buf = b
	}
	r.buf = r.buf[:n]
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Decode decodes the payload of one message. The message refers to payload.
func Decode(kind Kind, payload []byte) (Message, error) {
	make, ok := makers[kind]
	if !ok || len(payload) > bound(kind) {
		return nil, fmt.Errorf("%w: kind %d of %d bytes", ErrMalformed, kind, len(payload))
	}
	m := make()
	if err := decode(m, payload); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrMalformed, kind, err)
	}
	return m, nil
}

func decode(m Message, payload []byte) error {
	c := coder{buf: payload}
	m.fields(&c)
	if c.err == nil && len(c.buf) > 0 {
		c.err = fmt.Errorf("%d bytes too many", len(c.buf))
	}
	return c.err
}
