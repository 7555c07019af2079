package nfc

import (
	"encoding/binary"
	"time"
)

// call is one request and what comes back. It belongs to its caller until it is sent, to the link until done is closed,
// and to its caller again after that.
type call struct {
	kind    uint32
	op      string // in words, for errors
	payload []byte
	extra   []byte // follows the payload: a path, or content to write
	last    bool   // it is sent while the session ends

	io     ioFrame // of a request for content
	answer uint32  // length of the answer's payload; zero: any within bounds
	buf    []byte  // takes what follows the answer's payload: content, or a bitmap

	opID    uint32
	arrived cover
	reply   []byte // the answer's payload
	overdue *time.Timer
	done    chan struct{}
	err     error

	// Below the link's lock.
	abandoned bool          // the caller has left: what still arrives is dropped
	filling   bool          // the link is writing into buf
	released  chan struct{} // closed when a filling that was abandoned has ended
}

func (c *call) finish(err error) {
	c.overdue.Stop()
	c.err = err
	close(c.done)
}

func newCall(kind uint32, payload, extra []byte) *call {
	return &call{kind: kind, op: kindNames[kind], payload: payload, extra: extra}
}

// lastCall is one of those that end a session.
func lastCall(kind uint32, payload []byte) *call {
	c := newCall(kind, payload, nil)
	c.last = true
	return c
}

// newRead fills p with what stands at byte off, all in whole sectors.
func newRead(handle uint64, p []byte, off int64) *call {
	n := uint32(len(p))
	f := ioFrame{handle: handle, dir: dirRead, off: off, total: n, n: n, wire: n}
	return &call{kind: kindIO, op: "read", payload: f.append(nil), io: f, answer: ioLen, buf: p}
}

// newWrite puts p at byte off, all in whole sectors.
func newWrite(handle uint64, p []byte, off int64) *call {
	c := newRead(handle, p, off)
	c.op, c.extra, c.buf = "write", p, nil
	c.io.dir = dirWrite
	c.payload = c.io.append(nil)
	return c
}

// newAllocated asks what holds anything.
func newAllocated(handle uint64, chunk, start int64, count int) *call {
	c := newCall(kindAllocated, askAllocated(handle, chunk, start, count), nil)
	c.answer, c.buf = allocatedLen, make([]byte, bitmapLen(count))
	return c
}

// newProperty asks for a line of the disk's descriptor.
func newProperty(handle uint64, key string) *call {
	c := newCall(kindProperty, askProperty(handle, key), []byte(key))
	c.answer = propertyLen
	return c
}

const leastSector = 512

// accept holds an answer of content to its request: everything that the host says must be what was asked for, and no byte
// may come twice.
func (c *call) accept(f ioFrame) error {
	switch {
	case f.handle != 0 && f.handle != c.io.handle:
		return broken("an answer about the handle %#x to a %s by %#x", f.handle, c.op, c.io.handle)
	case f.dir != c.io.dir:
		return broken("an answer with the direction %d to a %s", f.dir, c.op)
	case f.off != c.io.off || f.total != c.io.total:
		return broken("an answer about [%d, +%d) to a %s of [%d, +%d)", f.off, f.total, c.op, c.io.off, c.io.total)
	case c.io.dir == dirWrite:
		return nil
	case f.compression != 0 || f.wire != f.n:
		return broken("a piece of %d bytes in %d, compressed by %d, where plain ones were asked for", f.n, f.wire, f.compression)
	case f.at > f.total || f.n > f.total-f.at:
		return broken("a piece [%d, +%d) of an answer of %d bytes", f.at, f.n, f.total)
	case f.at%leastSector != 0 || f.n%leastSector != 0 && f.at+f.n < f.total:
		return broken("a piece [%d, +%d) that is no whole sectors", f.at, f.n)
	case !c.arrived.add(span{f.at, f.at + f.n}):
		return broken("a piece [%d, +%d) that is empty, was there before, or is one of more than %d", f.at, f.n, mostParts)
	}
	return nil
}

// refused is an error message in place of an answer.
func (c *call) refused(payload []byte) error {
	e := &HostError{Op: c.op}
	if len(payload) >= 4 {
		e.Code = binary.LittleEndian.Uint32(payload)
	}
	return e
}
