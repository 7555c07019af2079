package rpc

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// Writer writes NDR 2.0: every number is aligned to its size.
type Writer struct {
	Data     []byte
	referent uint32
}

// Align pads with zeros to a multiple of n.
func (w *Writer) Align(n int) {
	for len(w.Data)%n != 0 {
		w.Data = append(w.Data, 0)
	}
}

// Uint16 writes a number of two bytes.
func (w *Writer) Uint16(v uint16) {
	w.Align(2)
	w.Data = binary.LittleEndian.AppendUint16(w.Data, v)
}

// Uint32 writes a number of four bytes.
func (w *Writer) Uint32(v uint32) {
	w.Align(4)
	w.Data = binary.LittleEndian.AppendUint32(w.Data, v)
}

// Bytes writes bytes as they are.
func (w *Writer) Bytes(b []byte) { w.Data = append(w.Data, b...) }

// String writes a [string] of wchar_t with its zero: maximum, offset, count, characters.
func (w *Writer) String(s string) {
	units := append(utf16.Encode([]rune(s)), 0)
	w.Uint32(uint32(len(units)))
	w.Uint32(0)
	w.Uint32(uint32(len(units)))
	for _, u := range units {
		w.Uint16(u)
	}
}

// Pointer writes a unique pointer: what it points to follows where the interface's definition has it.
func (w *Writer) Pointer(set bool) {
	if !set {
		w.Uint32(0)
		return
	}
	w.referent += 4
	w.Uint32(0x00020000 - 4 + w.referent)
}

// OptionalString writes a unique pointer to a string, and the string: an argument of its own, not a member.
func (w *Writer) OptionalString(s string) {
	w.Pointer(s != "")
	if s != "" {
		w.String(s)
	}
}

// Reader reads NDR 2.0. After the first error everything that it returns is zero; End has the error.
type Reader struct {
	Data []byte
	at   int
	err  error
}

// Fail keeps the first error.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: at byte %d: %s", ErrMalformed, r.at, fmt.Sprintf(format, args...))
	}
}

// Bytes reads n bytes as they are. They stay the reader's.
func (r *Reader) Bytes(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.Data)-r.at) {
		r.Fail("%d bytes wanted, %d left", n, len(r.Data)-r.at)
	}
	if r.err != nil {
		return nil
	}
	r.at += n
	return r.Data[r.at-n : r.at]
}

// Align skips to a multiple of n.
func (r *Reader) Align(n int) { r.Bytes((n - r.at%n) % n) }

// Uint16 reads a number of two bytes.
func (r *Reader) Uint16() uint16 {
	r.Align(2)
	if b := r.Bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads a number of four bytes.
func (r *Reader) Uint32() uint32 {
	r.Align(4)
	if b := r.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Pointer reads a unique pointer and reports whether it points to anything.
func (r *Reader) Pointer() bool { return r.Uint32() != 0 }

// String reads a [string] of wchar_t of at most max characters, its zero included.
func (r *Reader) String(max int) string {
	size, offset, count := r.Uint32(), r.Uint32(), r.Uint32()
	if r.err == nil && (offset != 0 || count > size || count == 0 || int64(count) > int64(max)) {
		r.Fail("a string of %d characters from %d, room for %d, at most %d", count, offset, size, max)
	}
	if r.err != nil {
		return ""
	}
	b := r.Bytes(2 * int(count))
	if b == nil {
		return ""
	}
	units := make([]uint16, count)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
		if zero := units[i] == 0; zero != (i == len(units)-1) {
			r.Fail("a string whose zero is not its last character")
			return ""
		}
	}
	return string(utf16.Decode(units[:count-1]))
}

// OptionalString reads a unique pointer to a string, and the string.
func (r *Reader) OptionalString(max int) string {
	if !r.Pointer() {
		return ""
	}
	return r.String(max)
}

// Err is the first error so far.
func (r *Reader) Err() error { return r.err }

// End is the first error, or one where something is left over. Up to seven bytes of padding are nothing.
func (r *Reader) End() error {
	if left := len(r.Data) - r.at; r.err == nil && left > 7 {
		r.Fail("%d bytes left over", left)
	}
	return r.err
}
