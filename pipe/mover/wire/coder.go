package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// coder writes fields to the end of buf, or reads them from its start. After the first error it does nothing. Writing
// changes nothing in the message: an answer may be written to two lanes at once.
type coder struct {
	buf     []byte
	writing bool
	err     error

	split   bool   // content is not appended but kept
	content []byte // what is kept
}

var errShort = errors.New("it ends too early")

// take is the next n bytes of what is read, nil at an error.
func (c *coder) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.buf) {
		c.err = errShort
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *coder) u8(v *uint8) {
	if c.writing {
		c.buf = append(c.buf, *v)
	} else if b := c.take(1); b != nil {
		*v = b[0]
	}
}

func (c *coder) u16(v *uint16) {
	if c.writing {
		c.buf = binary.BigEndian.AppendUint16(c.buf, *v)
	} else if b := c.take(2); b != nil {
		*v = binary.BigEndian.Uint16(b)
	}
}

func (c *coder) u32(v *uint32) {
	if c.writing {
		c.buf = binary.BigEndian.AppendUint32(c.buf, *v)
	} else if b := c.take(4); b != nil {
		*v = binary.BigEndian.Uint32(b)
	}
}

func (c *coder) u64(v *uint64) {
	if c.writing {
		c.buf = binary.BigEndian.AppendUint64(c.buf, *v)
	} else if b := c.take(8); b != nil {
		*v = binary.BigEndian.Uint64(b)
	}
}

// size is a length or an offset in bytes, at most MaxSize, so that the sum of two never overflows what they are
// counted in by more than a sign.
func (c *coder) size(v *int64) { c.amount(v, MaxSize) }

// amount is a number of bytes from 0 to max.
func (c *coder) amount(v *int64, max uint64) {
	u := uint64(*v)
	if c.writing && u > max {
		c.fail("%d bytes, at most %d", *v, max)
		return
	}
	c.u64(&u)
	switch {
	case c.writing:
	case u > max:
		c.fail("%d bytes, at most %d", u, max)
	default:
		*v = int64(u)
	}
}

// span holds a range against its bound: it ends at MaxSize or before.
func (c *coder) span(off, n int64) {
	if off > MaxSize-n {
		c.fail("%d bytes at %d", n, off)
	}
}

// upTo holds a length against its bound.
func (c *coder) upTo(n uint32, max uint32) {
	if n > max {
		c.fail("%d bytes, at most %d", n, max)
	}
}

// stamp is a time in nanoseconds since 1970, which may be negative.
func (c *coder) stamp(v *int64) {
	u := uint64(*v)
	c.u64(&u)
	if !c.writing {
		*v = int64(u)
	}
}

func (c *coder) flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	c.u8(&b)
	if b > 1 {
		c.fail("a flag is %d", b)
	}
	if !c.writing {
		*v = b == 1
	}
}

// key is 32 bytes: an id, a public key.
func (c *coder) key(v *[32]byte) {
	if c.writing {
		c.buf = append(c.buf, v[:]...)
	} else if b := c.take(32); b != nil {
		copy(v[:], b)
	}
}

func (c *coder) id16(v *[16]byte) {
	if c.writing {
		c.buf = append(c.buf, v[:]...)
	} else if b := c.take(16); b != nil {
		copy(v[:], b)
	}
}

// text is UTF-8 of at most max bytes, behind a length of two bytes.
func (c *coder) text(v *string, max int) {
	n := uint16(min(len(*v), 0xffff))
	if c.writing && (len(*v) > max || !utf8.ValidString(*v)) {
		c.fail("a text of %d bytes is no UTF-8 or longer than %d", len(*v), max)
		return
	}
	c.u16(&n)
	if c.writing {
		c.buf = append(c.buf, *v...)
		return
	}
	if int(n) > max {
		c.fail("a text of %d bytes, at most %d", n, max)
		return
	}
	b := c.take(int(n))
	if !utf8.Valid(b) {
		c.fail("a text is no UTF-8")
		return
	}
	*v = string(b)
}

// prose is a text for people. What is too long or no UTF-8 is made to fit when it is written, because an error must
// always be fit to be told.
func (c *coder) prose(v *string, max int) {
	if !c.writing {
		c.text(v, max)
		return
	}
	s := clip(*v, max)
	c.text(&s, max)
}

// clip is the longest beginning of s, as UTF-8, of at most max bytes.
func clip(s string, max int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// rest is everything up to the end of the message. What is read refers to the message's memory.
func (c *coder) rest(v *[]byte, max int) {
	switch {
	case c.err != nil:
	case c.writing && len(*v) > max, !c.writing && len(c.buf) > max:
		c.fail("more than %d bytes of content", max)
	case c.writing && c.split:
		c.content = *v
	case c.writing:
		c.buf = append(c.buf, *v...)
	case len(c.buf) == 0:
		*v = nil
	default:
		*v = c.take(len(c.buf))
	}
}

// count is the length of a list of elements that take at least each bytes.
func (c *coder) count(n, max, each int) int {
	u := uint16(min(n, 0xffff))
	if c.writing && n > max {
		c.fail("%d elements, at most %d", n, max)
	}
	c.u16(&u)
	if !c.writing && c.err == nil && (int(u) > max || int(u)*each > len(c.buf)) {
		c.fail("%d elements in %d bytes, at most %d", u, len(c.buf), max)
	}
	if c.err != nil {
		return 0
	}
	return int(u)
}

// list is a count and that many elements.
func list[T any](c *coder, v *[]T, max, each int, element func(*T)) {
	n := c.count(len(*v), max, each)
	if !c.writing {
		*v = nil
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := range n {
		element(&(*v)[i])
		if c.err != nil {
			return
		}
	}
}

// table is a map of short texts, written in order of its keys; keys that are not in order are refused.
func (c *coder) table(v *map[string]string, max, maxKey, maxValue int) {
	sorted(c, v, max, maxKey, 2, func(s *string) { c.text(s, maxValue) })
}

// amounts is a table of byte counts by name.
func (c *coder) amounts(v *map[string]uint64) {
	sorted(c, v, MaxAmounts, MaxKindName, 8, func(u *uint64) {
		c.u64(u)
		if *u > MaxSize {
			c.fail("%d bytes, at most %d", *u, uint64(MaxSize))
		}
	})
}

// sorted is a list of keys with values that take at least each bytes.
func sorted[T any](c *coder, v *map[string]T, max, maxKey, each int, value func(*T)) {
	n := c.count(len(*v), max, 2+each)
	if c.writing {
		for _, k := range slices.Sorted(maps.Keys(*v)) {
			of := (*v)[k]
			c.text(&k, maxKey)
			value(&of)
		}
		return
	}
	*v = nil
	if n > 0 {
		*v = make(map[string]T, n)
	}
	last := ""
	for i := range n {
		var k string
		var of T
		c.text(&k, maxKey)
		value(&of)
		if i > 0 && k <= last {
			c.fail("keys are not in order")
		}
		if c.err != nil {
			return
		}
		(*v)[k], last = of, k
	}
}
