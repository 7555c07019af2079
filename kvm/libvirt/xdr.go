package libvirt

import (
	"encoding/binary"
	"fmt"
)

// maxText is libvirt's bound for a text, in bytes.
const maxText = 4 << 20

// encoder writes XDR: everything in units of four bytes, the highest first.
type encoder struct{ b []byte }

func (e *encoder) uint(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

func (e *encoder) text(s string) {
	e.uint(uint32(len(s)))
	e.fixed([]byte(s))
}

// fixed is bytes whose number both sides know.
func (e *encoder) fixed(p []byte) {
	e.b = append(e.b, p...)
	for len(e.b)%4 != 0 {
		e.b = append(e.b, 0)
	}
}

// optional says whether what follows is there.
func (e *encoder) optional(there bool) {
	if there {
		e.uint(1)
	} else {
		e.uint(0)
	}
}

// decoder reads XDR. After the first error all it gives is zero; the caller looks at the error once, at the end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

func (d *decoder) uint() uint32 {
	if len(d.b) < 4 {
		d.fail("a packet ends in a number")
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) int() int { return int(int32(d.uint())) }

// fixed takes n bytes and what fills them up to a unit, which must be zero.
func (d *decoder) fixed(n int) []byte {
	padded := (n + 3) &^ 3
	if n < 0 || padded < n || padded > len(d.b) {
		d.fail("a packet ends in %d bytes", n)
		return nil
	}
	for _, c := range d.b[n:padded] {
		if c != 0 {
			d.fail("bytes between two fields are not zero")
			return nil
		}
	}
	p := d.b[:n:n]
	d.b = d.b[padded:]
	return p
}

func (d *decoder) text() string {
	n := d.uint()
	if n > maxText {
		d.fail("a text of %d bytes", n)
		return ""
	}
	return string(d.fixed(int(n)))
}

func (d *decoder) bool() bool {
	v := d.uint()
	if v > 1 {
		d.fail("%d is neither yes nor no", v)
	}
	return v == 1
}

// optionalText is empty also where there is none.
func (d *decoder) optionalText() string {
	if !d.bool() {
		return ""
	}
	return d.text()
}

// count is the length of a list.
func (d *decoder) count(max uint32) int {
	n := d.uint()
	if n > max {
		d.fail("a list of %d", n)
		return 0
	}
	return int(n)
}

// end is the error of all that was read; a packet has nothing behind its last field.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes behind the last field", len(d.b))
	}
	return d.err
}
