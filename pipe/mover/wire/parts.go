package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Split appends the frame's header and fields to dst, and returns the content that follows them as it stands in the
// message: it need not be copied to be sent. The frame's bytes are what was appended and then content. Errors are those
// of [Append].
func Split(dst []byte, f Frame) (head, content []byte, err error) {
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	c := coder{buf: dst, writing: true, split: true}
	f.Message.fields(&c)
	kind := f.Message.Kind()
	n := len(c.buf) - start - HeaderSize + len(c.content)
	if n > bound(kind) {
		c.fail("%d bytes, at most %d", n, bound(kind))
	}
	if c.err != nil {
		return dst[:start], nil, fmt.Errorf("message %v: %w", kind, c.err)
	}
	h := c.buf[start:]
	binary.BigEndian.PutUint32(h, uint32(n))
	h[4] = byte(kind)
	binary.BigEndian.PutUint64(h[8:], f.Call)
	return c.buf, c.content, nil
}

// Lend has payloads of more than 64 KiB read into memory from lend, which is asked for n bytes only once 64 KiB have
// arrived. That memory stays the lender's: the reader never touches it again after the Read that asked for it.
func (r *Reader) Lend(lend func(n int) []byte) { r.lend = lend }

const lendFrom = 64 << 10

// borrow reads a payload of n bytes, more than lendFrom, into lent memory.
func (r *Reader) borrow(n int) error {
	if cap(r.buf) < lendFrom {
		r.buf = make([]byte, lendFrom)
	}
	first := r.buf[:lendFrom]
	if _, err := io.ReadFull(r.r, first); err != nil {
		return err
	}
	r.own, r.buf, r.lent = r.buf, r.lend(n)[:n], true
	copy(r.buf, first)
	_, err := io.ReadFull(r.r, r.buf[lendFrom:])
	return err
}

// giveBack forgets lent memory.
func (r *Reader) giveBack() {
	if r.lent {
		r.buf, r.own, r.lent = r.own, nil, false
	}
}
