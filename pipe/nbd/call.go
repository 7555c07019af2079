package nbd

import (
	"encoding/binary"
	"io"
	"time"
)

// call is one request and its answer. See link for who may touch it when.
type call struct {
	req   request
	terms *terms // of the connection that carries it
	buf   []byte // read: where the data goes, req.n bytes

	arrived   cover               // read: what has come
	statuses  map[uint32][]Status // block status: ranges by id of the context
	errors    int
	refusal   error  // the error nearest to the request's start
	refusedAt uint64 // where that is

	err     error // after done: why the call failed
	done    chan struct{}
	overdue *time.Timer

	// Guarded by the link's lock.
	filling   bool          // the goroutine writes into buf
	abandoned bool          // nobody waits, and buf is not ours
	released  chan struct{} // closed when filling ends after abandoning
}

// refuse notes that the server failed the request at an offset.
func (c *call) refuse(off uint64, err error) {
	if c.refusal == nil || off < c.refusedAt {
		c.refusal, c.refusedAt = err, off
	}
	c.errors++
}

// finish hands the call back to its caller. The link's lock is held.
func (c *call) finish(err error) {
	c.overdue.Stop()
	if c.err = err; err == nil {
		c.err = c.refusal
	}
	if c.filling && c.abandoned {
		close(c.released)
	}
	c.filling = false
	close(c.done)
}

// valid is how many bytes from the first on are known to be right, after a read failed.
func (c *call) valid() int {
	if c.refusal == nil {
		return 0 // the connection broke: what arrived is not looked at
	}
	return int(min(c.arrived.prefix(), c.refusedAt-c.req.off))
}

// whole holds a finished answer against what a success must contain.
func (c *call) whole(contexts int) error {
	switch {
	case c.refusal != nil:
		return nil
	case c.req.cmd == cmdRead && c.arrived.prefix() != c.req.n:
		return broken("an answer to a read of %d bytes at %d is done after %d bytes", c.req.n, c.req.off, c.arrived.prefix())
	case c.req.cmd == cmdBlockStatus && len(c.statuses) != contexts:
		return broken("an answer to a block status has %d contexts of %d", len(c.statuses), contexts)
	}
	return nil
}

// receivePayload takes what a chunk carries.
func (l *link) receivePayload(c *call, h chunk) error {
	switch {
	case h.kind == chunkNone:
		if h.n != 0 || h.flags&chunkFlagDone == 0 {
			return broken("an empty chunk of %d bytes with flags %#x", h.n, h.flags)
		}
		return nil
	case h.kind == chunkData && c.req.cmd == cmdRead:
		return l.receiveData(c, h)
	case h.kind == chunkHole && c.req.cmd == cmdRead:
		return l.receiveHole(c, h)
	case h.kind == chunkStatus && c.req.cmd == cmdBlockStatus && l.terms.form == formStructured,
		h.kind == chunkStatusWide && c.req.cmd == cmdBlockStatus && l.terms.form == formExtended:
		return l.receiveStatus(c, h)
	case h.kind&chunkErrors != 0:
		return l.receiveError(c, h)
	}
	return broken("a chunk of type %d in the answer to a %v", h.kind, c.req.cmd)
}

// place takes the range of a content chunk in, relative to the request.
func (c *call) place(off, n uint64) (uint64, error) {
	if off < c.req.off || n == 0 || n > c.req.n || off-c.req.off > c.req.n-n {
		return 0, broken("content for [%d, +%d) in the answer to a read of [%d, +%d)", off, n, c.req.off, c.req.n)
	}
	at := off - c.req.off
	if !c.arrived.add(at, at+n) {
		return 0, broken("content for [%d, +%d) overlaps what came before, or is the %dth piece", off, n, len(c.arrived)+1)
	}
	return at, nil
}

func (l *link) receiveData(c *call, h chunk) error {
	var b [8]byte
	if h.n <= 8 {
		return broken("a data chunk of %d bytes", h.n)
	}
	if err := l.read(b[:]); err != nil {
		return err
	}
	at, err := c.place(binary.BigEndian.Uint64(b[:]), h.n-8)
	if err != nil {
		return err
	}
	return l.fill(c, at, h.n-8)
}

func (l *link) receiveHole(c *call, h chunk) error {
	var b [12]byte
	if h.n != 12 {
		return broken("a hole chunk of %d bytes", h.n)
	}
	if err := l.read(b[:]); err != nil {
		return err
	}
	n := uint64(binary.BigEndian.Uint32(b[8:]))
	at, err := c.place(binary.BigEndian.Uint64(b[:]), n)
	if err != nil {
		return err
	}
	if l.enter(c) {
		clear(c.buf[at : at+n])
	}
	l.leave(c)
	return nil
}

// fill reads n bytes into the call's buffer, step by step, so that a caller that leaves does not wait for all of them.
func (l *link) fill(c *call, at, n uint64) error {
	for n > 0 {
		m := min(n, step)
		if !l.enter(c) {
			return l.discard(c, n)
		}
		err := l.read(c.buf[at : at+m])
		l.leave(c)
		if err != nil {
			return err
		}
		at, n = at+m, n-m
	}
	return nil
}

// discard reads what nobody wants any more. Who abandoned the call is not waiting, and the deadline for silence holds.
func (l *link) discard(c *call, n uint64) error {
	for n > 0 {
		m := min(n, step)
		if _, err := io.CopyN(io.Discard, l.in, int64(m)); err != nil {
			return lost(err)
		}
		l.leave(c)
		n -= m
	}
	return nil
}

func (l *link) receiveStatus(c *call, h chunk) error {
	head, each := uint64(4), uint64(8)
	if h.kind == chunkStatusWide {
		head, each = 8, 16
	}
	if h.n < head+each || (h.n-head)%each != 0 || (h.n-head)/each > maxDescriptors {
		return broken("a block status chunk of %d bytes", h.n)
	}
	count := (h.n - head) / each
	var b [16]byte
	if err := l.read(b[:head]); err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b[:])
	if head == 8 && uint64(binary.BigEndian.Uint32(b[4:])) != count {
		return broken("a block status chunk of %d ranges says that it has %d", count, binary.BigEndian.Uint32(b[4:]))
	}
	if _, twice := c.statuses[id]; twice || !l.terms.selected(id) {
		return broken("a block status chunk for the context %d, which is answered or was not selected", id)
	}
	list := make([]Status, 0, min(count, 1024)) // it grows with what arrives
	pos := c.req.off
	for range count {
		if err := l.read(b[:each]); err != nil {
			return err
		}
		n, flags := uint64(binary.BigEndian.Uint32(b[:])), uint64(binary.BigEndian.Uint32(b[4:]))
		if each == 16 {
			n, flags = binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
		}
		if n == 0 {
			return broken("a block status of no bytes at %d", pos)
		}
		room := c.req.off + c.req.n - pos
		if n = min(n, room); n > 0 { // the last one may tell more than was asked
			list = append(list, Status{Off: int64(pos), Len: int64(n), Flags: flags})
			pos += n
		}
	}
	if c.statuses == nil {
		c.statuses = map[uint32][]Status{}
	}
	c.statuses[id] = list
	return nil
}

// selected reports whether a context was agreed on. There are few.
func (t *terms) selected(id uint32) bool {
	for _, known := range t.contexts {
		if known == id {
			return true
		}
	}
	return false
}

func (l *link) receiveError(c *call, h chunk) error {
	fixed := uint64(6)
	if h.kind == chunkErrorOffset {
		fixed = 14
	}
	if h.n < fixed || h.n > maxOptionData || c.errors >= maxErrors {
		return broken("an error chunk of %d bytes, the %dth", h.n, c.errors+1)
	}
	b := make([]byte, h.n)
	if err := l.read(b); err != nil {
		return err
	}
	n := uint64(binary.BigEndian.Uint16(b[4:]))
	if n > h.n-fixed {
		return broken("an error chunk of %d bytes with a message of %d", h.n, n)
	}
	e := &ServerError{Errno: Errno(binary.BigEndian.Uint32(b)), Message: printable(b[6 : 6+n])}
	if e.Errno == 0 {
		return broken("an error chunk without an error")
	}
	at := c.req.off
	if h.kind == chunkErrorOffset {
		at = binary.BigEndian.Uint64(b[6+n:])
		if at < c.req.off || at-c.req.off >= max(c.req.n, 1) {
			return broken("an error at %d in the answer to a %v of [%d, +%d)", at, c.req.cmd, c.req.off, c.req.n)
		}
	}
	c.refuse(at, e)
	return nil
}
