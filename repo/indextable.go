package repo

import (
	"encoding/binary"

	"github.com/hikae/hikae/pipe"
)

// slotTable finds records by id: 8 bytes a slot, 1.2 to 1.3 slots a record. It is cut to parts by the first byte of the
// id, and each part grows by a twelfth on its own: so a table that grows takes hardly more room than one that has grown.
// In a part, a slot's place follows from its tag alone, so that no record is read for that.
//
// Large parts are no memory of the garbage collector's: it would let as much garbage pile up as there is table.
type slotTable struct{ parts [tableParts]slotPart }

// slotPart is an open hash table with linear probing, of any number of slots. Slots of one tag stand in the order of entry.
type slotPart struct {
	slots []uint64 // tag<<32 | record number+1; 0: empty
	used  int
}

const (
	tableParts   = 256
	firstSlots   = 8
	maxPartSlots = 1 << 27 // a quarter more than all records there may be, were they even
	mappedSlots  = 4 << 10 // a part of so many slots is mapped
)

// tagOf is another part of the id than what chooses the part.
func tagOf(id pipe.ID) uint32 { return binary.LittleEndian.Uint32(id[4:]) }

func (t *slotTable) part(id pipe.ID) *slotPart { return &t.parts[id[0]] }

// bytes is what the table takes.
func (t *slotTable) bytes() (n int) {
	for i := range t.parts {
		n += 8 * len(t.parts[i].slots)
	}
	return n
}

func (t *slotTable) slots() (n int) { return t.bytes() / 8 }

// reserve makes room for n more records, if their ids are as even as ids are.
func (t *slotTable) reserve(n int) error {
	for i := range t.parts {
		p := &t.parts[i]
		need := p.used + n/tableParts
		if full(need, len(p.slots)) {
			if err := p.grow(max(nextSlots(len(p.slots)), need*7/6+1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// free gives the memory back. The table is empty then.
func (t *slotTable) free() {
	for i := range t.parts {
		freeSlots(t.parts[i].slots)
		t.parts[i] = slotPart{}
	}
}

// full: six slots of seven are taken, or more.
func full(used, slots int) bool { return used*7 >= slots*6 }

func nextSlots(n int) int {
	if n < 64 {
		return max(firstSlots, 2*n)
	}
	return n + n/12
}

// home is where the search for a tag begins.
func (p *slotPart) home(tag uint32) int { return int(uint64(tag) * uint64(len(p.slots)) >> 32) }

func (p *slotPart) next(at int) int {
	if at++; at < len(p.slots) {
		return at
	}
	return 0
}

// record is what stands in a slot that is taken.
func (p *slotPart) record(at int) uint32 { return uint32(p.slots[at]) - 1 }

// room makes sure that one more slot can be taken.
func (p *slotPart) room() error {
	if !full(p.used, len(p.slots)) {
		return nil
	}
	return p.grow(nextSlots(len(p.slots)))
}

// take puts a record into an empty slot.
func (p *slotPart) take(at int, tag, record uint32) {
	p.slots[at] = uint64(tag)<<32 | uint64(record+1)
	p.used++
}

// grow moves to more slots. Begun behind an empty slot, no run of taken ones is cut, and equal tags stay in order.
func (p *slotPart) grow(slots int) error {
	bigger, err := allocSlots(slots)
	if err != nil {
		return err
	}
	old := p.slots
	p.slots = bigger
	start := 0
	for start < len(old) && old[start] != 0 {
		start++
	}
	for i := range old {
		s := old[(start+i)%len(old)]
		if s == 0 {
			continue
		}
		at := p.home(uint32(s >> 32))
		for bigger[at] != 0 {
			at = p.next(at)
		}
		bigger[at] = s
	}
	freeSlots(old)
	return nil
}
