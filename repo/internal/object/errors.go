package object

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// ErrNoKey: none of an object's wraps is for any of the given keys. ErrWrongSecret, which is an ErrNoKey too: a
// passphrase was tried and is not the one. ErrFull: a builder's object cannot hold one more such frame. ErrShort: the
// bytes given end before what they should hold; more of the same may help.
var (
	ErrNoKey       = errors.New("no key opens this object")
	ErrWrongSecret = fmt.Errorf("%w: wrong passphrase", ErrNoKey)
	ErrFull        = errors.New("object is full")
	ErrShort       = fmt.Errorf("object ends too soon: %w", io.ErrUnexpectedEOF)
)

// CorruptError says that an object, or a frame of it, is not what was written or not what was asked for.
type CorruptError struct {
	Object [16]byte
	Offset int // of the stream
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("object %s, offset %d: %s", hex.EncodeToString(e.Object[:]), e.Offset, e.Reason)
}

// UnsupportedError says that a newer writer made this: What is "format version", "suite", "wrap", "frame type" or
// "codec".
type UnsupportedError struct {
	What  string
	Value int
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s %d is not known to this version", e.What, e.Value)
}
