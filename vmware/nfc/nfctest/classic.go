package nfctest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The handshake's messages.
const (
	classicBytes    = 264
	classicComplete = 4
	classicParams   = 33
	classicParamsOK = 36
	classicHello    = 43
	classicVersion  = 51
	classicAIO      = 52
	classicClient   = 54
	classicFeatures = 55

	version  = 11
	maxNames = 256 // bytes of each of the client's two names
)

// classic is one message of the handshake.
type classic [classicBytes]byte

func (m *classic) kind() uint32            { return m.word(0) }
func (m *classic) word(at int) uint32      { return binary.LittleEndian.Uint32(m[at:]) }
func (m *classic) set(at int, word uint32) { binary.LittleEndian.PutUint32(m[at:], word) }

// expect reads a message, which must be of this kind.
func expect(r io.Reader, kind uint32) (*classic, error) {
	m := new(classic)
	if _, err := io.ReadFull(r, m[:]); err != nil {
		return nil, err
	}
	if m.kind() != kind {
		return nil, fmt.Errorf("nfctest: message of type %d where %d was due", m.kind(), kind)
	}
	return m, nil
}

// handshake goes through the messages, which have one order.
func handshake(c io.ReadWriter) error {
	hello, err := expect(c, classicHello)
	if err != nil {
		return err
	}
	if string(hello[4:14]) != "PlainText\x00" {
		return fmt.Errorf("nfctest: encoding %q", hello[4:14])
	}
	if _, err := expect(c, classicParams); err != nil {
		return err
	}
	if err := answer(c, classicParamsOK, 16, 1); err != nil {
		return err
	}
	if _, err := expect(c, classicVersion); err != nil {
		return err
	}
	if err := answer(c, classicVersion, 4, version); err != nil {
		return err
	}
	names, err := expect(c, classicClient)
	if err != nil {
		return err
	}
	if names.word(4) > maxNames || names.word(8) > maxNames {
		return fmt.Errorf("nfctest: names of %d and %d bytes", names.word(4), names.word(8))
	}
	if _, err := io.CopyN(io.Discard, c, int64(names.word(4))+int64(names.word(8))); err != nil {
		return err
	}
	if _, err := expect(c, classicFeatures); err != nil {
		return err
	}
	if _, err := expect(c, classicAIO); err != nil {
		return err
	}
	return answer(c, classicAIO, 4, 0)
}

// answer sends a message with one word.
func answer(w io.Writer, kind uint32, at int, word uint32) error {
	var m classic
	m.set(0, kind)
	m.set(at, word)
	_, err := w.Write(m[:])
	return err
}
