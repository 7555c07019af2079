package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds of frames.
const (
	HeaderSize = 12
	MaxMessage = 1 << 20   // bytes of JSON
	MaxData    = 256 << 10 // bytes of a Data frame
	MaxCalls   = 8         // that are open at once
	// Window is how many bytes of a call's data may be on their way. Each More lets MaxData more go.
	Window = 16 * MaxData
)

// Frame kinds.
const (
	KindRequest byte = iota + 1
	KindAnswer
	KindFailure
	KindData
	KindCancel
	KindMore
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
	switch kind {
	case KindRequest, KindAnswer, KindFailure:
		return MaxMessage, true
	case KindData:
		return MaxData, true
	case KindCancel, KindMore:
		return 0, true
	}
	return 0, false
}

// check is what holds of every frame, written or read.
func check(kind byte, call uint32, length int64) error {
	max, known := bound(kind)
	switch {
	case !known:
		return fmt.Errorf("%w: unknown kind %d", ErrMalformed, kind)
	case call == 0:
		return fmt.Errorf("%w: call 0", ErrMalformed)
	case length > int64(max):
		return fmt.Errorf("%w: %d bytes of kind %d, at most %d", ErrMalformed, length, kind, max)
	}
	return nil
}

// Write writes a frame with one call of w.Write.
func Write(w io.Writer, f Frame) error {
	if err := check(f.Kind, f.Call, int64(len(f.Payload))); err != nil {
		return err
	}
	b := make([]byte, HeaderSize, HeaderSize+len(f.Payload))
	binary.BigEndian.PutUint32(b, uint32(len(f.Payload)))
	b[4] = f.Kind
	binary.BigEndian.PutUint32(b[8:], f.Call)
	_, err := w.Write(append(b, f.Payload...))
	return err
}

// Read reads a frame. The error is io.EOF only between two frames. Memory grows with what arrives, not with what the
// header claims.
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
		return Frame{}, fmt.Errorf("%w: reserved bytes are set", ErrMalformed)
	}
	f.Payload = make([]byte, 0, min(n, 64<<10))
	for int64(len(f.Payload)) < n {
		part := min(n-int64(len(f.Payload)), 64<<10)
		at := len(f.Payload)
		f.Payload = append(f.Payload, make([]byte, part)...)
		if _, err := io.ReadFull(r, f.Payload[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
	}
	return f, nil
}
