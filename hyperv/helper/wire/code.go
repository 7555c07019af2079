package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// maxList is how many members a list may have, whatever they are.
const maxList = 65_536

// encoder writes fields. The first problem stays.
type encoder struct {
	b   []byte
	err error
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

func (e *encoder) u8(n uint8)   { e.b = append(e.b, n) }
func (e *encoder) u16(n uint16) { e.b = binary.BigEndian.AppendUint16(e.b, n) }
func (e *encoder) u32(n uint32) { e.b = binary.BigEndian.AppendUint32(e.b, n) }
func (e *encoder) u64(n uint64) { e.b = binary.BigEndian.AppendUint64(e.b, n) }

func (e *encoder) yes(b bool) {
	if b {
		e.u8(1)
		return
	}
	e.u8(0)
}

func (e *encoder) text(s string) {
	if len(s) > math.MaxUint16 || !utf8.ValidString(s) {
		e.fail("a text of %d bytes, at most %d of UTF-8", len(s), math.MaxUint16)
		return
	}
	e.u16(uint16(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) long(s string) {
	if len(s) > MaxMessage || !utf8.ValidString(s) {
		e.fail("a text of %d bytes, at most %d of UTF-8", len(s), MaxMessage)
		return
	}
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) count(n int) {
	if n > maxList {
		e.fail("a list of %d, at most %d", n, maxList)
	}
	e.u32(uint32(min(n, maxList)))
}

func (e *encoder) texts(list []string) {
	e.count(len(list))
	for _, s := range list {
		e.text(s)
	}
}

// decoder reads fields. After the first problem all are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("%d bytes where there are %d", n, len(d.b))
		return make([]byte, min(n, 8)) // fields of a fixed size are zero
	}
	part := d.b[:n]
	d.b = d.b[n:]
	return part
}

func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) yes() bool {
	n := d.u8()
	if n > 1 {
		d.fail("a bool of %d", n)
	}
	return n == 1
}

func (d *decoder) text() string { return d.string(int(d.u16())) }
func (d *decoder) long() string { return d.string(int(min(d.u32(), MaxMessage+1))) }

func (d *decoder) string(n int) string {
	part := d.take(n)
	switch {
	case d.err != nil:
		return ""
	case !utf8.Valid(part):
		d.fail("a text that is not UTF-8")
		return ""
	}
	return string(part)
}

// count reads how many members follow, of at least so many bytes each: there cannot be more than there is room for.
func (d *decoder) count(least int) int {
	n := d.u32()
	if int64(n)*int64(least) > int64(len(d.b)) || n > maxList {
		d.fail("a list of %d in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

func (d *decoder) texts() []string {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.text()
	}
	return list
}

// end is how decoding went.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes are left over", len(d.b))
	}
	return d.err
}
