package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ALPN is the protocol's name in the handshake.
const ALPN = "hikae-guest/1"

// Version is that of this protocol.
const Version = 1

// Kinds of frames.
const (
	kindAttach byte = iota + 1
	kindAttached
	kindRefuse
	kindRequest
	kindAnswer
	kindFailure
	kindData
	kindAck
	kindEnd
	kindPing
	kindPong
	kindLeave
)

// Bounds of payloads.
const (
	headerSize = 16
	maxSmall   = 64 << 10 // of what is neither a request, an answer nor data
	maxMessage = 1 << 20
	maxData    = 64 << 10
	maxReason  = 4 << 10
)

// bounds is the longest payload of each kind.
var bounds = [...]int{
	kindAttach: maxSmall, kindAttached: maxSmall, kindRefuse: maxSmall, kindRequest: maxMessage, kindAnswer: maxMessage,
	kindFailure: maxSmall, kindData: maxData, kindAck: 0, kindEnd: maxReason, kindPing: 0, kindPong: 0, kindLeave: 0,
}

// ErrMalformed says that the other side does not speak this protocol.
var ErrMalformed = errors.New("malformed message")

// frame is one frame as it is.
type frame struct {
	kind    byte
	number  uint64
	payload []byte
}

// check is what holds of every frame, written or read.
func (f *frame) check(length int64) error {
	switch {
	case f.kind == 0 || int(f.kind) >= len(bounds):
		return fmt.Errorf("%w: unknown kind %d", ErrMalformed, f.kind)
	case length > int64(bounds[f.kind]):
		return fmt.Errorf("%w: %d bytes of kind %d, at most %d", ErrMalformed, length, f.kind, bounds[f.kind])
	}
	switch f.kind {
	case kindRequest, kindAnswer, kindFailure:
		if f.number == 0 {
			return fmt.Errorf("%w: request 0", ErrMalformed)
		}
	case kindData:
		if length == 0 {
			return fmt.Errorf("%w: no data", ErrMalformed)
		}
	case kindAck, kindEnd:
	default:
		if f.number != 0 {
			return fmt.Errorf("%w: kind %d with number %d", ErrMalformed, f.kind, f.number)
		}
	}
	return nil
}

// writeFrame writes a frame with one call of w.Write.
func writeFrame(w io.Writer, f frame) error {
	if err := f.check(int64(len(f.payload))); err != nil {
		return err
	}
	b := make([]byte, headerSize, headerSize+len(f.payload))
	binary.BigEndian.PutUint32(b, uint32(len(f.payload)))
	b[4] = f.kind
	binary.BigEndian.PutUint64(b[8:], f.number)
	_, err := w.Write(append(b, f.payload...))
	return err
}

// readFrame reads a frame. The error is io.EOF only between two frames. Memory grows with what arrives, not with what the
// header claims.
func readFrame(r io.Reader) (frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: h[4], number: binary.BigEndian.Uint64(h[8:])}
	n := int64(binary.BigEndian.Uint32(h[:]))
	if err := f.check(n); err != nil {
		return frame{}, err
	}
	if h[5]|h[6]|h[7] != 0 {
		return frame{}, fmt.Errorf("%w: reserved bytes are set", ErrMalformed)
	}
	for int64(len(f.payload)) < n {
		part := min(n-int64(len(f.payload)), maxSmall)
		at := len(f.payload)
		f.payload = append(f.payload, make([]byte, part)...)
		if _, err := io.ReadFull(r, f.payload[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return frame{}, err
		}
	}
	return f, nil
}
