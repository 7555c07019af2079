package object

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/repo/internal/cell"
)

const (
	magic        = "HIKAEOBJ"
	prefixLen    = 44 // what names the object: up to and with the object id
	fixedHeader  = prefixLen + 32 + 1
	atCommitment = prefixLen
	atWraps      = prefixLen + 32
)

// Header is the first part of an object's stream.
type Header struct {
	Kind, Suite  uint8
	Repo, Object [16]byte
	Commitment   [32]byte
	Wraps        []Wrap
}

// Wrap is one way to the data key.
type Wrap struct {
	Type uint8
	Body []byte
}

// Len is how many bytes the header takes: frame 0 starts there.
func (h *Header) Len() int {
	n := fixedHeader
	for _, w := range h.Wraps {
		n += 3 + len(w.Body)
	}
	return n
}

// Append appends the header's bytes to dst.
func (h *Header) Append(dst []byte) []byte {
	prefix := h.prefix()
	dst = append(dst, prefix[:]...)
	dst = append(dst, h.Commitment[:]...)
	dst = append(dst, uint8(len(h.Wraps)))
	for _, w := range h.Wraps {
		dst = append(dst, w.Type)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(w.Body)))
		dst = append(dst, w.Body...)
	}
	return dst
}

// prefix is the additional data of every wrap.
func (h *Header) prefix() (p [prefixLen]byte) {
	copy(p[:], magic)
	binary.LittleEndian.PutUint16(p[8:], Version)
	p[10], p[11] = h.Kind, h.Suite
	copy(p[12:], h.Repo[:])
	copy(p[28:], h.Object[:])
	return p
}

// salt is what every derivation for this object starts from: repository id | object id.
func (h *Header) salt() []byte {
	return append(append(make([]byte, 0, 32), h.Repo[:]...), h.Object[:]...)
}

// ParseHeader reads the header at the start of a stream. What it returns shares no memory with p. Errors: ErrShort if
// p ends within the header (HeaderMax bytes are always enough), UnsupportedError for another version or suite,
// CorruptError.
func ParseHeader(p []byte) (*Header, error) {
	if len(p) < fixedHeader {
		return nil, ErrShort
	}
	h := &Header{
		Kind: p[10], Suite: p[11], Repo: [16]byte(p[12:]), Object: [16]byte(p[28:]),
		Commitment: [32]byte(p[atCommitment:]),
	}
	if string(p[:8]) != magic {
		return nil, h.corrupt(0, "no header")
	}
	if v := binary.LittleEndian.Uint16(p[8:]); v != Version {
		return nil, &UnsupportedError{What: "format version", Value: int(v)}
	}
	if err := knownSuite(h.Suite); err != nil {
		return nil, err
	}
	if err := knownKind(h.Kind); err != nil {
		return nil, h.corrupt(10, err.Error())
	}
	if err := h.parseWraps(p); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Header) parseWraps(p []byte) error {
	count := int(p[atWraps])
	if count < 1 || count > MaxWraps {
		return h.corrupt(atWraps, fmt.Sprintf("%d wraps", count))
	}
	at := fixedHeader
	for range count {
		if len(p) < at+3 {
			return ErrShort
		}
		w, n := Wrap{Type: p[at]}, int(binary.LittleEndian.Uint16(p[at+1:]))
		if err := checkWrap(h.Suite, w.Type, n, count); err != nil {
			return h.corrupt(at, err.Error())
		}
		if at += 3; len(p) < at+n {
			return ErrShort
		}
		w.Body = bytes.Clone(p[at : at+n])
		h.Wraps = append(h.Wraps, w)
		at += n
	}
	return nil
}

var wrapLen = map[uint8]int{WrapClear: 32, WrapMaster: 56, WrapX25519: 88, WrapPassphrase: 73, WrapKeyFile: 56}

// checkWrap is what a reader and a writer hold every wrap against. Types that are not known pass: another wrap may open.
func checkWrap(suite, typ uint8, n, count int) error {
	if want, fixed := wrapLen[typ]; n > MaxWrap || fixed && n != want {
		return fmt.Errorf("wrap of type %d has %d bytes", typ, n)
	}
	if (suite == SuiteClear) != (typ == WrapClear) || suite == SuiteClear && count != 1 {
		return fmt.Errorf("wrap of type %d, one of %d, in suite %d", typ, count, suite)
	}
	return nil
}

// Matches refuses a header that is not of the object asked for. A zero object id matches any.
func (h *Header) Matches(want cell.Ident) error {
	switch {
	case h.Kind != want.Kind:
		return h.corrupt(10, fmt.Sprintf("kind is %d, not %d", h.Kind, want.Kind))
	case h.Repo != want.Repo:
		return h.corrupt(12, "of another repository")
	case want.Object != [16]byte{} && h.Object != want.Object:
		return h.corrupt(28, "another object than was asked for")
	}
	return nil
}

func (h *Header) corrupt(offset int, reason string) *CorruptError {
	return &CorruptError{Object: h.Object, Offset: offset, Reason: reason}
}
