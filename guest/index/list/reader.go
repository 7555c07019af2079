package list

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Reader reads a list that may be hostile: it never holds more than one entry and its classes.
type Reader struct {
	in      *bufio.Reader
	begun   bool
	last    Entry
	first   bool
	inside  bool
	classes []class
	entries int64
	buf     []byte
	err     error
}

// NewReader reads a list.
func NewReader(r io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(r, 64<<10)} }

// Next is the next volume, or if that is nil the next entry. After the end of a whole list it is io.EOF; errors wrap
// [ErrMalformed], or are the stream's own.
func (r *Reader) Next() (*Volume, Entry, error) {
	if r.err != nil {
		return nil, Entry{}, r.err
	}
	v, e, err := r.next()
	r.err = err
	return v, e, err
}

func (r *Reader) next() (*Volume, Entry, error) {
	kind, p, err := r.item()
	if err != nil {
		return nil, Entry{}, err
	}
	switch kind {
	case itemVolume:
		v, err := r.volume(p)
		return v, Entry{}, err
	case itemEntry:
		e, err := r.entry(p)
		return nil, e, err
	case itemEnd:
		return nil, Entry{}, r.end(p)
	}
	return nil, Entry{}, fmt.Errorf("%w: an item of kind %d after %d entries", ErrMalformed, kind, r.entries)
}

// item reads the bytes of one.
func (r *Reader) item() (byte, *Cursor, error) {
	if !r.begun {
		head := make([]byte, len(magic))
		if _, err := io.ReadFull(r.in, head); err != nil || string(head) != magic {
			return 0, nil, r.broken("its head", err)
		}
		r.begun = true
	}
	kind, err := r.in.ReadByte()
	if err != nil {
		return 0, nil, r.broken("an item", err)
	}
	n, err := r.length()
	if err != nil {
		return 0, nil, err
	}
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return 0, nil, r.broken("an item", err)
	}
	return kind, &Cursor{p: r.buf}, nil
}

// length reads an item's.
func (r *Reader) length() (n uint64, err error) {
	for shift := 0; shift < 21; shift += 7 { // maxItem has fewer bits
		b, err := r.in.ReadByte()
		if err != nil {
			return 0, r.broken("an item's length", err)
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 && n <= maxItem {
			return n, nil
		}
		if b < 0x80 {
			break
		}
	}
	return 0, r.broken("an item's length", nil)
}

// broken is what a read that failed means: an end before the end, or whatever the stream says.
func (r *Reader) broken(what string, err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s is wrong or missing after %d entries", ErrMalformed, what, r.entries)
	}
	return err
}

func (r *Reader) volume(c *Cursor) (*Volume, error) {
	v := &Volume{}
	for _, s := range v.fields() {
		*s = c.Text(MaxText)
	}
	if !c.Done() {
		return nil, r.broken("a volume", nil)
	}
	r.last, r.first, r.inside = Entry{}, true, true
	return v, v.Check()
}

func (r *Reader) entry(c *Cursor) (Entry, error) {
	flags := c.Uint(hasTarget | hasNote)
	k := r.class(c)
	shared := c.Uint(uint64(len(r.last.Path)))
	e := Entry{
		Path: r.last.Path[:shared] + c.Text(MaxPath), Type: k.Type, Mode: k.Mode, Owner: k.Owner, Group: k.Group,
		Size: int64(c.Uint(1<<63 - 1)), ModUnix: r.last.ModUnix + c.Int(), CreatedUnix: r.last.CreatedUnix + c.Int(),
	}
	if flags&hasTarget != 0 {
		e.Target = c.Text(MaxTarget)
	}
	if flags&hasNote != 0 {
		e.Note = c.Text(MaxText)
	}
	if !c.Done() || !r.inside {
		return e, r.broken("an entry", nil)
	}
	if err := e.Check(); err != nil {
		return e, err
	}
	if !r.first && Compare(r.last.Path, e.Path) >= 0 {
		return e, fmt.Errorf("%w: %.100q follows %.100q", ErrMalformed, e.Path, r.last.Path)
	}
	r.last, r.first = e, false
	r.entries++
	return e, nil
}

func (r *Reader) class(c *Cursor) class {
	i := c.Uint(uint64(len(r.classes)))
	if c.Bad() || i < uint64(len(r.classes)) {
		if c.Bad() {
			return class{}
		}
		return r.classes[i]
	}
	k := class{Type(c.Byte()), uint32(c.Uint(1<<32 - 1)), c.Text(MaxText), c.Text(MaxText)}
	if len(r.classes) == maxClasses {
		r.classes = r.classes[:0]
	}
	r.classes = append(r.classes, k)
	return k
}

func (r *Reader) end(c *Cursor) error {
	if n := c.Uint(1<<63 - 1); !c.Done() || n != uint64(r.entries) {
		return r.broken("the end", nil)
	}
	if _, err := r.in.ReadByte(); err == nil {
		return fmt.Errorf("%w: more after its end", ErrMalformed)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

// Cursor takes numbers and texts off bytes. What is not there, or beyond its bound, is zero, and makes the cursor bad.
type Cursor struct {
	p   []byte
	bad bool
}

// NewCursor begins at the start of p.
func NewCursor(p []byte) *Cursor { return &Cursor{p: p} }

// Bad reports that something was wrong so far.
func (c *Cursor) Bad() bool { return c.bad }

// Done reports that all was well, and nothing is left.
func (c *Cursor) Done() bool { return !c.bad && len(c.p) == 0 }

// Uint is an unsigned number of at most limit.
func (c *Cursor) Uint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.p)
	if c.bad || n <= 0 || v > limit {
		c.bad = true
		return 0
	}
	c.p = c.p[n:]
	return v
}

// Int is a signed number.
func (c *Cursor) Int() int64 {
	v, n := binary.Varint(c.p)
	if c.bad || n <= 0 {
		c.bad = true
		return 0
	}
	c.p = c.p[n:]
	return v
}

// Byte is one byte.
func (c *Cursor) Byte() byte {
	if p := c.Bytes(1); len(p) == 1 {
		return p[0]
	}
	return 0
}

// Bytes are the next n; they are the cursor's own.
func (c *Cursor) Bytes(n int) []byte {
	if c.bad || n < 0 || n > len(c.p) {
		c.bad = true
		return nil
	}
	p := c.p[:n]
	c.p = c.p[n:]
	return p
}

// Text is a length of at most limit and so many bytes.
func (c *Cursor) Text(limit int) string { return string(c.Bytes(int(c.Uint(uint64(limit))))) }
