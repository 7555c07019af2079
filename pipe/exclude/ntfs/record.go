package ntfs

import (
	"fmt"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Types of attributes.
const (
	typeStandard   = 0x10
	typeList       = 0x20
	typeName       = 0x30
	typeVolName    = 0x60
	typeVolInfo    = 0x70
	typeData       = 0x80
	typeIndexRoot  = 0x90
	typeIndexAlloc = 0xA0
	typeBitmap     = 0xB0
	typeReparse    = 0xC0
	typeEnd        = 0xFFFFFFFF
)

// Flags of an attribute.
const (
	attrCompressed = 0x00FF // the method; 1 is LZNT1
	attrEncrypted  = 0x4000
	attrSparse     = 0x8000
)

// Flags of a file record.
const (
	recordInUse = 0x01
	recordDir   = 0x02 // it has an index of names
)

// stride is what one entry of the update sequence protects, whatever the size of a sector.
const stride = 512

// unfix checks the update sequence of a record, in place: the last two bytes of each stride hold a number that shows
// a torn write, and what belongs there stands in the header.
func unfix(p []byte) error {
	off, n := int(le.Uint16(p[4:])), int(le.Uint16(p[6:]))
	if len(p)%stride != 0 || n != len(p)/stride+1 || off < 0x1E || off%2 != 0 || off+2*n > stride-2 {
		return fmt.Errorf("an update sequence of %d at %d in %d bytes", n, off, len(p))
	}
	for i := 1; i < n; i++ {
		end := p[i*stride-2 : i*stride]
		if end[0] != p[off] || end[1] != p[off+1] {
			return fmt.Errorf("a torn write: the mark of sector %d is wrong", i-1)
		}
		copy(end, p[off+2*i:off+2*i+2])
	}
	return nil
}

// record is a file record whose update sequence was checked.
type record []byte

func (r record) lsn() uint64   { return le.Uint64(r[0x08:]) }
func (r record) seq() uint16   { return le.Uint16(r[0x10:]) }
func (r record) flags() uint16 { return le.Uint16(r[0x16:]) }
func (r record) used() int     { return int(le.Uint32(r[0x18:])) }
func (r record) base() ref     { return ref(le.Uint64(r[0x20:])) }
func (r record) inUse() bool   { return r.flags()&recordInUse != 0 }

// ref names a file record: a number of 48 bits, and how often the record had been reused.
type ref uint64

func (r ref) number() int64 { return int64(r & (1<<48 - 1)) }
func (r ref) seq() uint16   { return uint16(r >> 48) }

// parseRecord checks the frame of a file record, in place.
func parseRecord(p []byte) (record, error) {
	if string(p[:4]) != "FILE" {
		return nil, fmt.Errorf("the signature is %q", p[:4])
	}
	if err := unfix(p); err != nil {
		return nil, err
	}
	r := record(p)
	if first := int(le.Uint16(p[0x14:])); first < 0x28 || first%8 != 0 || first+8 > r.used() || r.used() > len(p) {
		return nil, fmt.Errorf("%d bytes in use, attributes from %d", r.used(), first)
	}
	return r, nil
}

// attr is one attribute of a file record, or one part of an attribute that has several.
type attr struct {
	off      int // in the record
	typ      uint32
	name     string // as stored, UTF-16
	flags    uint16
	id       uint16
	resident bool
	value    []byte // where resident

	low, high         int64  // the clusters of the stream that this part is about
	pairs             []byte // where they lie
	alloc, size, init int64  // of the whole stream; they stand in its first part
	unit              uint8  // a compression unit is 2^unit clusters; 0: none
}

// attrs walks the attributes. An error ends the walk.
func (r record) attrs() iter.Seq2[attr, error] {
	return func(yield func(attr, error) bool) {
		for off := int(le.Uint16(r[0x14:])); off+4 <= r.used(); {
			if le.Uint32(r[off:]) == typeEnd {
				return
			}
			a, n, err := parseAttr(r[off:r.used()])
			a.off = off
			if err != nil {
				yield(attr{}, fmt.Errorf("attribute at %d: %w", off, err))
				return
			}
			if !yield(a, nil) {
				return
			}
			off += n
		}
		yield(attr{}, fmt.Errorf("the attributes have no end"))
	}
}

// parseAttr reads the attribute that p begins with, and says how long it is.
func parseAttr(p []byte) (a attr, n int, err error) {
	if len(p) < 0x18 {
		return a, 0, fmt.Errorf("%d bytes are left", len(p))
	}
	n = int(le.Uint32(p[4:]))
	if n < 0x18 || n%8 != 0 || n > len(p) {
		return a, 0, fmt.Errorf("it is %d bytes of %d", n, len(p))
	}
	p = p[:n]
	a = attr{typ: le.Uint32(p), resident: p[8] == 0, flags: le.Uint16(p[0x0C:]), id: le.Uint16(p[0x0E:])}
	if p[8] > 1 {
		return a, n, fmt.Errorf("form %d", p[8])
	}
	if chars := int(p[9]); chars > 0 {
		at := int(le.Uint16(p[0x0A:]))
		if at+2*chars > n {
			return a, n, fmt.Errorf("a name of %d at %d", chars, at)
		}
		a.name = string(p[at : at+2*chars])
	}
	if a.resident {
		return a, n, a.parseResident(p)
	}
	return a, n, a.parseNonresident(p)
}

func (a *attr) parseResident(p []byte) error {
	size, at := int64(le.Uint32(p[0x10:])), int64(le.Uint16(p[0x14:]))
	if at+size > int64(len(p)) {
		return fmt.Errorf("a value of %d bytes at %d of %d", size, at, len(p))
	}
	a.value, a.size, a.init = p[at:at+size], size, size
	return nil
}

func (a *attr) parseNonresident(p []byte) error {
	if len(p) < 0x40 {
		return fmt.Errorf("it is %d bytes", len(p))
	}
	a.low, a.high = int64(le.Uint64(p[0x10:])), int64(le.Uint64(p[0x18:]))
	if a.low < 0 || a.high < a.low-1 || a.high >= 1<<55 {
		return fmt.Errorf("clusters %d to %d", a.low, a.high)
	}
	at := int(le.Uint16(p[0x20:]))
	if at < 0x40 || at > len(p) {
		return fmt.Errorf("the run list is at %d of %d", at, len(p))
	}
	a.pairs, a.unit = p[at:], p[0x22]
	if a.low > 0 {
		return nil
	}
	a.alloc, a.size, a.init = int64(le.Uint64(p[0x28:])), int64(le.Uint64(p[0x30:])), int64(le.Uint64(p[0x38:]))
	if a.alloc < 0 || a.size < 0 || a.init < 0 || a.alloc >= 1<<62 || a.size > a.alloc || a.init > a.size {
		return fmt.Errorf("%d bytes valid of %d, %d allocated", a.init, a.size, a.alloc)
	}
	return nil
}

// corrupt is an error about a structure at a byte of the volume, -1 where it has no one place.
func corrupt(what string, off int64, why error) error {
	return &fsys.CorruptError{What: what, Off: off, Why: why.Error()}
}
