package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds.
const (
	Version    = 1
	HeaderSize = 12
	MaxMessage = 8 << 20 // bytes of a payload
	MaxRequest = 1 << 20 // bytes of a request's
	MaxRead    = 1 << 20 // bytes that one Read asks for
	MaxCalls   = 32      // that are open at once
)

// Kinds of frames.
const (
	KindHello byte = iota + 1
	KindComponents
	KindTake
	KindOpen
	KindRead
	KindShut
	KindList
	KindFinish
	KindDelete
	KindSweep
	KindPing
	KindCancel
	KindBye

	KindProgress byte = 112
	KindAnswer   byte = 128 // is added to a request's kind
	KindFailure  byte = 255
)

// ErrMalformed is wrapped by every error of decoding: the peer does not speak this protocol.
var ErrMalformed = errors.New("malformed message")

// Frame is one frame as it is.
type Frame struct {
	Kind    byte
	Call    uint32
	Payload []byte
}

// bound is the longest payload of a kind.
func bound(kind byte) (int, bool) {
	switch {
	case kind == KindPing, kind == KindCancel, kind == KindBye, kind == KindComponents:
		return 0, true
	case kind >= KindHello && kind <= KindBye:
		return MaxRequest, true
	case kind == KindRead+KindAnswer:
		return MaxRead, true
	case kind == KindProgress, kind == KindFailure:
		return MaxRequest, true
	case kind >= KindHello+KindAnswer && kind <= KindBye+KindAnswer && kind != KindCancel+KindAnswer:
		return MaxMessage, true
	}
	return 0, false
}

func check(kind byte, call uint32, length int64) error {
	most, known := bound(kind)
	switch {
	case !known:
		return fmt.Errorf("%w: kind %d is unknown", ErrMalformed, kind)
	case call == 0:
		return fmt.Errorf("%w: call 0", ErrMalformed)
	case length > int64(most):
		return fmt.Errorf("%w: %d bytes of kind %d, at most %d", ErrMalformed, length, kind, most)
	}
	return nil
}

// Append adds a frame's header for a payload of that length.
func Append(b []byte, kind byte, call uint32, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = append(b, kind, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, call)
}

// Write writes a frame with one call of w.Write.
func Write(w io.Writer, f Frame) error {
	if err := check(f.Kind, f.Call, int64(len(f.Payload))); err != nil {
		return err
	}
	b := Append(make([]byte, 0, HeaderSize+len(f.Payload)), f.Kind, f.Call, len(f.Payload))
	_, err := w.Write(append(b, f.Payload...))
	return err
}

// Read reads a frame. The error is io.EOF only between two frames. Memory grows with what arrives, not with what a header
// claims.
func Read(r io.Reader) (Frame, error) {
	var h [HeaderSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: h[4], Call: binary.BigEndian.Uint32(h[8:])}
	n := int64(binary.BigEndian.Uint32(h[:]))
	if err := check(f.Kind, f.Call, n); err != nil {
		return Frame{}, err
	}
	if h[5]|h[6]|h[7] != 0 {
		return Frame{}, fmt.Errorf("%w: bytes that are zero are not", ErrMalformed)
	}
	err := f.fill(r, int(n))
	return f, err
}

// step is how far memory is ahead of what has arrived.
const step = 256 << 10

func (f *Frame) fill(r io.Reader, n int) error {
	f.Payload = make([]byte, 0, min(n, step))
	for len(f.Payload) < n {
		at := len(f.Payload)
		end := min(n, max(2*at, step))
		if end > cap(f.Payload) {
			grown := make([]byte, at, end)
			copy(grown, f.Payload)
			f.Payload = grown
		}
		f.Payload = f.Payload[:end]
		if _, err := io.ReadFull(r, f.Payload[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}
