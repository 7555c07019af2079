package ntfs

import (
	"context"
	"slices"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// applyRecord does one operation on a file record. It must hold together before and after.
func (r *replay) applyRecord(ctx context.Context, rec *logRecord, op uint16, data []byte, otherLen int, lsn uint64) error {
	if _, err := r.target(rec, numberTable, typeData); err != nil {
		return err
	}
	p := make([]byte, r.record)
	if there, err := r.load(ctx, rec, rec.block, p); err != nil || !there {
		return err
	}
	_, err := parseRecord(p)
	switch {
	case err != nil && op != opInitRecord:
		return misfit("the file record: %v", err)
	case err != nil:
		clear(p)
	case lsn != 0 && record(p).lsn() >= lsn:
		return nil
	}
	e := recordEditor{p: p}
	if err := e.do(op, rec.recordOff, rec.attrOff, data, otherLen); err != nil {
		return err
	}
	if lsn != 0 {
		le.PutUint64(e.p[8:], lsn)
	}
	if err := e.whole(r.geometry); err != nil {
		return misfit("what came out: %v", err)
	}
	fix(e.p)
	return r.store(ctx, rec, rec.block, e.p)
}

// fix is the opposite of unfix, with the number that stands in the header.
func fix(p []byte) {
	off := int(le.Uint16(p[4:]))
	for i := 1; i <= len(p)/stride; i++ {
		end := p[i*stride-2 : i*stride]
		copy(p[off+2*i:], end)
		copy(end, p[off:off+2])
	}
}

// recordEditor changes a file record whose update sequence was undone.
type recordEditor struct{ p []byte }

func (e *recordEditor) used() int { return int(le.Uint32(e.p[0x18:])) }

// whole checks the record as a reader would.
func (e *recordEditor) whole(g geometry) error {
	q := slices.Clone(e.p)
	if n, off := int(le.Uint16(q[6:])), int(le.Uint16(q[4:])); n != len(q)/stride+1 || off < 0x28 || off%2 != 0 || off+2*n > stride-2 {
		return misfit("an update sequence of %d at %d", n, off)
	}
	fix(q)
	rec, err := parseRecord(q)
	if err != nil {
		return err
	}
	for a, err := range rec.attrs() {
		if err != nil {
			return err
		}
		if !a.resident {
			if _, err := appendRuns(nil, a, g.clusters); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *recordEditor) do(op uint16, recordOff, attrOff int, data []byte, otherLen int) error {
	switch op {
	case opInitRecord:
		if recordOff != 0 || len(data) < 0x30 || len(data) > len(e.p) || string(data[:4]) != "FILE" {
			return misfit("%d bytes at %d", len(data), recordOff)
		}
		copy(e.p, data)
		return nil
	case opFreeRecord:
		le.PutUint16(e.p[0x16:], le.Uint16(e.p[0x16:])&^recordInUse)
		if seq := le.Uint16(e.p[0x10:]) + 1; seq != 0 {
			le.PutUint16(e.p[0x10:], seq)
		} else {
			le.PutUint16(e.p[0x10:], 1)
		}
		return nil
	case opEndOfRecord:
		if recordOff < 0x30 || recordOff > e.used() || recordOff+len(data) > len(e.p) {
			return misfit("an end of %d bytes at %d", len(data), recordOff)
		}
		copy(e.p[recordOff:], data)
		le.PutUint32(e.p[0x18:], uint32(recordOff+len(data)))
		return nil
	case opCreateAttribute:
		return e.createAttribute(recordOff, data)
	}
	a, n, err := e.attribute(recordOff)
	if err != nil {
		return err
	}
	switch op {
	case opDeleteAttribute:
		e.countName(recordOff, -1)
		return e.replace(recordOff, n, nil)
	case opUpdateResident:
		return e.updateResident(a, recordOff, n, attrOff, data, otherLen)
	case opUpdatePairs:
		return e.updatePairs(a, recordOff, n, attrOff, data)
	case opSetSizes:
		return e.setSizes(a, recordOff, n, data)
	}
	return e.updateRoot(op, a, recordOff, n, attrOff, data)
}

// attribute is what begins at a place of the record, which must be one where an attribute does.
func (e *recordEditor) attribute(at int) (a attr, n int, err error) {
	for a, err := range record(e.p).attrs() {
		if err != nil {
			return a, 0, misfit("%v", err)
		}
		if a.off == at {
			return a, int(le.Uint32(e.p[at+4:])), nil
		}
	}
	return a, 0, misfit("no attribute begins at %d", at)
}

// replace puts other bytes in place of n bytes, and moves what is behind them.
func (e *recordEditor) replace(at, n int, with []byte) error {
	used := e.used()
	if at+n > used || used-n+len(with) > len(e.p) {
		return misfit("%d bytes for %d at %d, %d in use", len(with), n, at, used)
	}
	tail := slices.Clone(e.p[at+n : used])
	copy(e.p[at:], with)
	copy(e.p[at+len(with):], tail)
	end := used - n + len(with)
	clear(e.p[min(end, used):used])
	le.PutUint32(e.p[0x18:], uint32(end))
	return nil
}

func (e *recordEditor) createAttribute(at int, data []byte) error {
	if len(data) < 0x18 || len(data)%8 != 0 || int(le.Uint32(data[4:])) != len(data) {
		return misfit("an attribute of %d bytes", len(data))
	}
	if at < 0x28 || at+4 > e.used() || le.Uint32(e.p[at:]) != typeEnd {
		if _, _, err := e.attribute(at); err != nil {
			return err
		}
	}
	if err := e.replace(at, 0, data); err != nil {
		return err
	}
	e.countName(at, 1)
	if id := le.Uint16(data[0x0E:]); id >= le.Uint16(e.p[0x28:]) {
		le.PutUint16(e.p[0x28:], id+1)
	}
	return nil
}

// countName keeps the number of names, for an attribute that stands in an index is a name.
func (e *recordEditor) countName(at, by int) {
	if e.p[at+8] == 0 && e.p[at+0x16]&1 != 0 {
		le.PutUint16(e.p[0x12:], uint16(int(le.Uint16(e.p[0x12:]))+by))
	}
}

// updateResident overwrites a part of a value. Where the lengths for both directions differ the value ends behind it.
func (e *recordEditor) updateResident(a attr, at, n, off int, data []byte, otherLen int) error {
	if !a.resident {
		return misfit("the attribute at %d is not resident", at)
	}
	value := int(le.Uint16(e.p[at+0x14:]))
	if off < value || off > value+len(a.value) {
		return misfit("byte %d of an attribute, its value begins at %d", off, value)
	}
	if len(data) == otherLen {
		if off+len(data) > n {
			return misfit("%d bytes at %d of %d", len(data), off, n)
		}
		copy(e.p[at+off:], data)
		return nil
	}
	q := make([]byte, (off+len(data)+7)&^7)
	copy(q, e.p[at:at+off])
	copy(q[off:], data)
	le.PutUint32(q[4:], uint32(len(q)))
	le.PutUint32(q[0x10:], uint32(off+len(data)-value))
	return e.replace(at, n, q)
}

// updatePairs replaces the end of a run list.
func (e *recordEditor) updatePairs(a attr, at, n, off int, data []byte) error {
	begin := int(le.Uint16(e.p[at+0x20:]))
	if a.resident || off < begin || off > n {
		return misfit("byte %d of an attribute, its run list begins at %d of %d", off, begin, n)
	}
	q := make([]byte, (off+len(data)+7)&^7)
	copy(q, e.p[at:at+off])
	copy(q[off:], data)
	le.PutUint32(q[4:], uint32(len(q)))
	high := int64(le.Uint64(q[0x10:])) - 1
	for p := q[begin:]; len(p) > 0 && p[0] != 0; {
		nl, ol := int(p[0]&15), int(p[0]>>4)
		if nl == 0 || nl > 8 || ol > 8 || 1+nl+ol > len(p) {
			return misfit("the new run list")
		}
		high, p = high+signed(p[1:1+nl]), p[1+nl+ol:]
	}
	le.PutUint64(q[0x18:], uint64(high))
	return e.replace(at, n, q)
}

// setSizes sets what is allocated, valid and there, and of a sparse or compressed attribute also what it takes.
func (e *recordEditor) setSizes(a attr, at, n int, data []byte) error {
	if a.resident || a.low != 0 || len(data) < 24 {
		return misfit("%d bytes of sizes", len(data))
	}
	copy(e.p[at+0x28:at+0x30], data[:8])
	copy(e.p[at+0x30:at+0x38], data[16:24])
	copy(e.p[at+0x38:at+0x40], data[8:16])
	if len(data) >= 32 && n >= 0x48 && a.flags&(attrCompressed|attrSparse) != 0 {
		copy(e.p[at+0x40:at+0x48], data[24:32])
	}
	return nil
}

// updateRoot changes the root of an index, whose value holds a node behind 16 bytes of its own.
func (e *recordEditor) updateRoot(op uint16, a attr, at, n, off int, data []byte) error {
	value := int(le.Uint16(e.p[at+0x14:]))
	if a.typ != typeIndexRoot || !a.resident || len(a.value) < 0x20 {
		return misfit("the attribute at %d is no root of an index", at)
	}
	head := value + 0x10
	used := int64(le.Uint32(a.value[0x14:]))
	if used > int64(len(a.value)-0x10) {
		return misfit("%d bytes of a root are in use, it has %d", used, len(a.value))
	}
	node := nodeEditor{p: slices.Clone(e.p[at+head : at+head+int(used)]), room: len(e.p)}
	if err := node.do(op, off-head, data); err != nil {
		return err
	}
	q := make([]byte, (head+len(node.p)+7)&^7)
	copy(q, e.p[at:at+head])
	copy(q[head:], node.p)
	le.PutUint32(q[head+8:], uint32(len(node.p))) // a root has no room to spare
	le.PutUint32(q[4:], uint32(len(q)))
	le.PutUint32(q[0x10:], uint32(head+len(node.p)-value))
	return e.replace(at, n, q)
}

// applyBlock does one operation on an index block.
func (r *replay) applyBlock(ctx context.Context, rec *logRecord, op uint16, data []byte, lsn uint64) error {
	a, err := r.target(rec, -1, typeIndexAlloc)
	if err != nil {
		return err
	}
	if !powerOfTwo(a.indexSize, 512, maxRecord) {
		return misfit("index blocks of %d bytes", a.indexSize)
	}
	p := make([]byte, a.indexSize)
	if there, err := r.load(ctx, rec, rec.block, p); err != nil || !there {
		return err
	}
	off := rec.recordOff + rec.attrOff
	bad := checkBlock(p)
	switch {
	case bad != nil && !(op == opUpdateNonresident && off == 0):
		return misfit("the index block: %v", bad)
	case bad != nil:
		clear(p)
	case lsn != 0 && le.Uint64(p[8:]) >= lsn:
		return nil
	}
	if err := editBlock(p, op, off, data); err != nil {
		return err
	}
	if lsn != 0 {
		le.PutUint64(p[8:], lsn)
	}
	if n, at := int(le.Uint16(p[6:])), int(le.Uint16(p[4:])); n != len(p)/stride+1 || at < 0x28 || at%2 != 0 || at+2*n > stride-2 {
		return misfit("an update sequence of %d at %d", n, at)
	}
	if err := checkNode(p[0x18:]); string(p[:4]) != "INDX" || err != nil {
		return misfit("what came out: %v", err)
	}
	fix(p)
	return r.store(ctx, rec, rec.block, p)
}

// checkBlock undoes the update sequence of an index block and checks that its entries have an end.
func checkBlock(p []byte) error {
	if string(p[:4]) != "INDX" {
		return misfit("it begins with %q", p[:4])
	}
	if err := unfix(p); err != nil {
		return err
	}
	return checkNode(p[0x18:])
}

func editBlock(p []byte, op uint16, off int, data []byte) error {
	if op == opUpdateNonresident {
		if off+len(data) > len(p) {
			return misfit("%d bytes at %d of %d", len(data), off, len(p))
		}
		copy(p[off:], data)
		return nil
	}
	const head = 0x18
	used := int(le.Uint32(p[head+4:]))
	node := nodeEditor{p: slices.Clone(p[head : head+used]), room: len(p) - head}
	if err := node.do(op, off-head, data); err != nil {
		return err
	}
	clear(p[head+copy(p[head:], node.p):])
	return nil
}

// checkNode walks the entries of a node, whatever their keys are.
func checkNode(p []byte) error {
	if len(p) < 0x10 {
		return misfit("a node of %d bytes", len(p))
	}
	off, end := int64(le.Uint32(p)), int64(le.Uint32(p[4:]))
	if off < 0x10 || off%8 != 0 || off > end || end > int64(len(p)) {
		return misfit("entries from %d to %d of %d", off, end, len(p))
	}
	for off+0x10 <= end {
		n := int64(le.Uint16(p[off+8:]))
		if n < 0x10 || n%8 != 0 || n > end-off {
			return misfit("an entry of %d bytes at %d of %d", n, off, end)
		}
		if le.Uint16(p[off+0x0C:])&entryLast != 0 {
			return nil
		}
		off += n
	}
	return misfit("the entries have no end")
}

// nodeEditor changes the entries of an index node; p is its header and what of it is in use.
type nodeEditor struct {
	p    []byte
	room int // how long it may get
}

func (e *nodeEditor) do(op uint16, off int, data []byte) error {
	if err := checkNode(e.p); err != nil {
		return err
	}
	if op == opEndOfBlock {
		if off < 0x10 || off > len(e.p) || off+len(data) > e.room {
			return misfit("an end of %d bytes at %d", len(data), off)
		}
		e.p = append(e.p[:off], data...)
		le.PutUint32(e.p[4:], uint32(len(e.p)))
		return nil
	}
	n, err := e.entry(off)
	if err != nil {
		return err
	}
	switch op {
	case opAddEntryRoot, opAddEntryBlock:
		if len(data) < 0x10 || len(data)%8 != 0 || int(le.Uint16(data[8:])) != len(data) || len(e.p)+len(data) > e.room {
			return misfit("an entry of %d bytes", len(data))
		}
		e.p = slices.Insert(e.p, off, data...)
	case opDeleteEntryRoot, opDeleteEntryBlock:
		if le.Uint16(e.p[off+0x0C:])&entryLast != 0 {
			return misfit("the entry at %d is the last", off)
		}
		e.p = slices.Delete(e.p, off, off+n)
	case opSetVCNRoot, opSetVCNBlock:
		if le.Uint16(e.p[off+0x0C:])&entryDown == 0 || n < 0x18 || len(data) != 8 {
			return misfit("the entry at %d has nothing below it", off)
		}
		copy(e.p[off+n-8:], data)
	case opUpdateNameRoot, opUpdateNameBlock:
		return e.overwrite(off+0x18, off+n, data, 0x38)
	case opUpdateDataRoot, opUpdateDataBlock:
		return e.overwrite(off+int(le.Uint16(e.p[off:])), off+n, data, n)
	}
	le.PutUint32(e.p[4:], uint32(len(e.p)))
	return nil
}

func (e *nodeEditor) overwrite(at, end int, data []byte, most int) error {
	if len(data) > most || at+len(data) > end {
		return misfit("%d bytes at %d, the entry ends at %d", len(data), at, end)
	}
	copy(e.p[at:], data)
	return nil
}

// entry is how long the entry at a place is, which must be one where an entry begins.
func (e *nodeEditor) entry(at int) (int, error) {
	for off := int(le.Uint32(e.p)); off+0x10 <= len(e.p); {
		n := int(le.Uint16(e.p[off+8:]))
		if off == at {
			return n, nil
		}
		if n < 0x10 || off > at {
			break
		}
		off += n
	}
	return 0, misfit("no entry begins at %d", at)
}

var _ fsys.FileSystem = (*volume)(nil)
