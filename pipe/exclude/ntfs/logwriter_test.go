package ntfs

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// target is an attribute that records are about.
type target struct {
	file int64
	typ  uint32
	size int64 // of an index block
}

// change is one log record: how to come from one state to the other and back.
type change struct {
	target
	vcn, lcn    int64
	clusters    int64
	block       int64
	redoOp      uint16
	undoOp      uint16
	recordOff   int
	attrOff     int
	redo, undo  []byte
	transaction uint32
}

// logWriter writes a log as Windows would lay it out, by the published structures alone.
type logWriter struct {
	p        []byte
	two      bool
	pos      int64 // in the file
	round    uint64
	first    int64
	last     uint64
	touched  []int64
	prev     map[uint32]uint64
	prevUndo map[uint32]uint64
	targets  []target
}

const (
	logPage = 4096
	logData = 0x40
)

func newLogWriter(size int64, two bool) *logWriter {
	w := &logWriter{p: bytes.Repeat([]byte{0xFF}, int(size)), two: two, round: 3, first: 4 * logPage,
		prev: map[uint32]uint64{}, prevUndo: map[uint32]uint64{}}
	if two {
		w.first = 34 * logPage
	}
	w.pos = w.first + logData
	w.startPage()
	return w
}

func (w *logWriter) seqBits() uint {
	n := uint(0)
	for s := len(w.p); s > 0; s >>= 1 {
		n++
	}
	return 67 - n
}

func (w *logWriter) lsn() uint64 { return w.round<<(64-w.seqBits()) | uint64(w.pos)>>3 }

// startPage makes the page at pos an empty one.
func (w *logWriter) startPage() {
	page := w.pos / logPage * logPage
	p := w.p[page : page+logPage]
	clear(p)
	copy(p, "RCRD")
	le.PutUint16(p[4:], 0x28)
	le.PutUint16(p[6:], 9)
	le.PutUint32(p[0x10:], 1)
	le.PutUint16(p[0x14:], 1)
	le.PutUint16(p[0x16:], 1)
	le.PutUint16(p[0x28:], uint16(7+page/logPage))
	if w.two {
		le.PutUint32(p[0x3C:], uint32(page))
	}
	w.touched = append(w.touched, page)
}

func (w *logWriter) nextPage() {
	if w.pos = w.pos/logPage*logPage + logPage; w.pos >= int64(len(w.p)) {
		w.pos, w.round = w.first, w.round+1
	}
	w.pos += logData
	w.startPage()
}

// add writes a record of the log file service.
func (w *logWriter) add(typ, transaction uint32, prev, undoNext uint64, data []byte) uint64 {
	if logPage-w.pos%logPage < 0x30 {
		w.nextPage()
	}
	lsn := w.lsn()
	h := w.p[w.pos:]
	le.PutUint64(h, lsn)
	le.PutUint64(h[8:], prev)
	le.PutUint64(h[0x10:], undoNext)
	le.PutUint32(h[0x18:], uint32(len(data)))
	le.PutUint32(h[0x20:], typ)
	le.PutUint32(h[0x24:], transaction)
	if w.pos%logPage+0x30+int64(len(data)) > logPage {
		le.PutUint16(h[0x28:], 1)
	}
	w.pos += 0x30
	for {
		page := w.pos / logPage * logPage
		if w.pos%logPage == 0 {
			page -= logPage // the record ended with its page
		}
		n := copy(w.p[w.pos:page+logPage], data)
		le.PutUint64(w.p[page+8:], lsn)
		if data, w.pos = data[n:], w.pos+int64(n); len(data) == 0 {
			w.pos = (w.pos + 7) &^ 7
			le.PutUint16(w.p[page+0x18:], uint16(w.pos-page))
			le.PutUint64(w.p[page+0x20:], lsn)
			break
		}
		w.pos = page
		w.nextPage()
	}
	if w.pos%logPage == 0 {
		w.pos -= logPage
		w.nextPage()
	}
	w.last = lsn
	return lsn
}

// op writes a record of NTFS.
func (w *logWriter) op(c change) uint64 {
	at := uint16(0)
	for i, t := range w.targets {
		if t == c.target {
			at = uint16(0x18 + 0x28*i)
		}
	}
	p := make([]byte, 0x20+8*c.clusters)
	le.PutUint16(p, c.redoOp)
	le.PutUint16(p[2:], c.undoOp)
	le.PutUint16(p[0x0C:], at)
	le.PutUint16(p[0x0E:], uint16(c.clusters))
	le.PutUint16(p[0x10:], uint16(c.recordOff))
	le.PutUint16(p[0x12:], uint16(c.attrOff))
	le.PutUint16(p[0x14:], uint16(c.block/512))
	le.PutUint64(p[0x18:], uint64(c.vcn))
	for i := range c.clusters {
		le.PutUint64(p[0x20+8*i:], uint64(c.lcn+i))
	}
	for i, d := range [][]byte{c.redo, c.undo} {
		if len(d) > 0 {
			le.PutUint16(p[4+4*i:], uint16(len(p)))
			le.PutUint16(p[6+4*i:], uint16(len(d)))
			p = append(p, d...)
			for len(p)%8 != 0 {
				p = append(p, 0)
			}
		}
	}
	lsn := w.add(1, c.transaction, w.prev[c.transaction], w.prevUndo[c.transaction], p)
	w.prev[c.transaction], w.prevUndo[c.transaction] = lsn, lsn
	return lsn
}

// table makes a dump of a table.
func table(size int, entries ...[]byte) []byte {
	p := make([]byte, 0x18)
	le.PutUint16(p, uint16(size))
	le.PutUint16(p[2:], uint16(len(entries)))
	le.PutUint16(p[4:], uint16(len(entries)))
	for _, e := range entries {
		e = append(e, make([]byte, size-len(e))...)
		le.PutUint32(e, 0xFFFFFFFF)
		p = append(p, e...)
	}
	return p
}

// checkpoint writes the tables and the restart area that names them.
func (w *logWriter) checkpoint(dirty, transactions []byte) (restart uint64) {
	var open [][]byte
	for _, t := range w.targets {
		e := make([]byte, 0x28)
		le.PutUint32(e[4:], uint32(t.size))
		le.PutUint32(e[8:], t.typ)
		le.PutUint64(e[0x10:], uint64(t.file)|5<<48)
		open = append(open, e)
	}
	dump := func(op uint16, p []byte) uint64 {
		if p == nil {
			return 0
		}
		return w.op(change{redoOp: op, redo: p})
	}
	attributes := dump(0x1D, table(0x28, open...))
	d, x := dump(0x1F, dirty), dump(0x20, transactions)
	p := make([]byte, 0x70)
	le.PutUint32(p, 1)
	for i, v := range []uint64{attributes, attributes, 0, d, x} {
		le.PutUint64(p[8+8*i:], v)
	}
	return w.add(2, 0, 0, 0, p)
}

// finish writes the restart pages and protects all pages.
func (w *logWriter) finish(restart, current uint64, flags uint16) []byte {
	for k, lsn := range []uint64{current, current - 1} {
		p := w.p[k*logPage : (k+1)*logPage]
		clear(p)
		copy(p, "RSTR")
		le.PutUint16(p[4:], 0x1E)
		le.PutUint16(p[6:], 9)
		le.PutUint32(p[0x10:], logPage)
		le.PutUint32(p[0x14:], logPage)
		le.PutUint16(p[0x18:], 0x30)
		le.PutUint16(p[0x1A:], 1)
		le.PutUint16(p[0x1C:], 1)
		if w.two {
			le.PutUint32(p[0x1A:], 2<<16)
		}
		le.PutUint16(p[0x1E:], uint16(5+k))
		a := p[0x30:]
		le.PutUint64(a, lsn)
		le.PutUint16(a[8:], 1)
		le.PutUint16(a[0x0A:], 0xFFFF)
		le.PutUint16(a[0x0E:], flags)
		le.PutUint32(a[0x10:], uint32(w.seqBits()))
		le.PutUint16(a[0x14:], 0xD0)
		le.PutUint16(a[0x16:], 0x30)
		le.PutUint64(a[0x18:], uint64(len(w.p)))
		le.PutUint16(a[0x24:], 0x30)
		le.PutUint16(a[0x26:], logData)
		c := a[0x30:]
		le.PutUint64(c[8:], restart)
		le.PutUint16(c[0x10:], 0xFFFF)
		le.PutUint16(c[0x12:], 0xFFFF)
		le.PutUint32(c[0x1C:], 8)
		copy(c[0x20:], "N\x00T\x00F\x00S\x00")
		fix(p)
	}
	slices.Sort(w.touched)
	for _, page := range slices.Compact(w.touched) {
		fix(w.p[page : page+logPage])
	}
	return w.p
}

// state is a volume in memory.
type state struct {
	raw []byte
	w   *view
}

func newState(t *testing.T, raw []byte) *state {
	t.Helper()
	vol := pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw)))
	g, doubt, err := openBoot(t.Context(), vol)
	require.NoError(t, err)
	require.Empty(t, doubt)
	w, doubt, err := newView(t.Context(), vol, g)
	require.NoError(t, err)
	require.Empty(t, doubt)
	return &state{raw, w}
}

// differ finds what must be done to come from the metadata of a to that of b.
type differ struct {
	t       *testing.T
	a, b    *state
	changes []change
	places  []span // what the changes are about, in the volume
}

type span struct{ off, n int64 }

func diff(t *testing.T, a, b *state) *differ {
	d := &differ{t: t, a: a, b: b}
	for k := int64(0); k < b.w.records(); k++ {
		d.record(k)
	}
	for k := int64(0); k < b.w.records(); k++ {
		f, err := b.w.file(context.Background(), k)
		if err != nil {
			continue
		}
		for _, at := range f.attrs {
			switch {
			case at.resident:
			case at.typ == typeIndexAlloc:
				d.blocks(f, at)
			case at.typ == typeBitmap, at.typ == typeData && k == numberBitmap:
				d.bits(f, at)
			}
		}
	}
	return d
}

func (d *differ) add(t target, vcn, place, n int64, c change) {
	cluster := d.b.w.cluster
	c.target, c.vcn, c.lcn, c.block = t, vcn, place/cluster, place%cluster
	c.clusters = (c.block + n + cluster - 1) / cluster
	d.changes = append(d.changes, c)
	d.places = append(d.places, span{place, n})
}

// record finds the changes of one file record: attribute by attribute where that is possible.
func (d *differ) record(k int64) {
	place, size := d.b.w.where(k), d.b.w.record
	pa, pb := slices.Clone(d.a.raw[place:place+size]), slices.Clone(d.b.raw[place:place+size])
	ra, errA := parseRecord(pa)
	rb, errB := parseRecord(pb)
	if errB != nil || errA == nil && bytes.Equal(pa[0x30:ra.used()], pb[0x30:rb.used()]) && ra.flags() == rb.flags() && ra.seq() == rb.seq() {
		return
	}
	to := target{numberTable, typeData, 0}
	vcn := k * size / d.b.w.cluster
	if errA == nil && ra.inUse() && rb.inUse() && ra.seq() == rb.seq() && ra.base() == rb.base() {
		if list, ok := editRecord(pa, pb); ok {
			for _, c := range list {
				d.add(to, vcn, place, size, c)
			}
			return
		}
	}
	c := change{redoOp: opInitRecord, redo: rb[:rb.used()], undoOp: opFreeRecord}
	if errA == nil && ra.inUse() {
		c.undoOp, c.undo = opInitRecord, ra[:ra.used()]
		if !rb.inUse() && le.Uint16(rb[0x10:]) == ra.seq()+1 {
			c.redoOp, c.redo = opFreeRecord, nil
		}
	}
	d.add(to, vcn, place, size, c)
}

// editRecord tries to come from one record to another by small operations.
func editRecord(pa, pb []byte) (list []change, ok bool) {
	cur := recordEditor{slices.Clone(pa)}
	do := func(c change) bool {
		list = append(list, c)
		return cur.do(c.redoOp, c.recordOff, c.attrOff, c.redo, len(c.undo)) == nil
	}
	bytesOf := func(p []byte, a attr) []byte { return slices.Clone(p[a.off : a.off+int(le.Uint32(p[a.off+4:]))]) }
	same := func(x, y attr) bool {
		return x.typ == y.typ && x.name == y.name && x.resident == y.resident && (x.typ != typeName || bytes.Equal(x.value, y.value))
	}
	collect := func(p []byte) (all []attr) {
		for a, err := range record(p).attrs() {
			if err != nil {
				return nil
			}
			all = append(all, a)
		}
		return all
	}
	theirs := collect(pb)
	for i := 0; i < len(collect(cur.p)); i++ {
		a := collect(cur.p)[i]
		if !slices.ContainsFunc(theirs, func(b attr) bool { return same(a, b) }) {
			if !do(change{redoOp: opDeleteAttribute, undoOp: opCreateAttribute, recordOff: a.off, undo: bytesOf(cur.p, a)}) {
				return nil, false
			}
			i--
		}
	}
	for i, b := range theirs {
		ours := collect(cur.p)
		if i >= len(ours) || !same(ours[i], b) {
			at := cur.used() - 8
			if i < len(ours) {
				at = ours[i].off
			}
			if !do(change{redoOp: opCreateAttribute, undoOp: opDeleteAttribute, recordOff: at, redo: bytesOf(pb, b)}) {
				return nil, false
			}
			continue
		}
		for _, c := range editAttr(cur.p, pb, ours[i], b) {
			if !do(c) {
				return nil, false
			}
		}
	}
	return list, len(collect(cur.p)) == len(theirs) && cur.used() == record(pb).used()
}

// editAttr comes from one attribute to another of its kind.
func editAttr(pa, pb []byte, a, b attr) (list []change) {
	na, nb := int(le.Uint32(pa[a.off+4:])), int(le.Uint32(pb[b.off+4:]))
	if bytes.Equal(pa[a.off:a.off+na], pb[b.off:b.off+nb]) {
		return nil
	}
	if !a.resident {
		at := int(le.Uint16(pa[a.off+0x20:]))
		end := func(p []byte) []byte {
			n := 0
			for n < len(p) && p[n] != 0 {
				n += 1 + int(p[n]&15) + int(p[n]>>4)
			}
			return slices.Clone(p[:n+1])
		}
		sizes := func(x attr) []byte {
			p := make([]byte, 24)
			le.PutUint64(p, uint64(x.alloc))
			le.PutUint64(p[8:], uint64(x.init))
			le.PutUint64(p[16:], uint64(x.size))
			return p
		}
		return []change{
			{redoOp: opUpdatePairs, undoOp: opUpdatePairs, recordOff: a.off, attrOff: at, redo: end(b.pairs), undo: end(a.pairs)},
			{redoOp: opSetSizes, undoOp: opSetSizes, recordOff: a.off, redo: sizes(b), undo: sizes(a)},
		}
	}
	value := int(le.Uint16(pa[a.off+0x14:]))
	if a.typ == typeIndexRoot {
		list, ok := editNode(a.value[0x10:], b.value[0x10:], opAddEntryRoot)
		for i := range list {
			list[i].recordOff, list[i].attrOff = a.off, list[i].attrOff+value+0x10
		}
		if ok {
			return list
		}
		return []change{{redoOp: opHotFix}} // not to be done this way
	}
	return []change{{redoOp: opUpdateResident, undoOp: opUpdateResident, recordOff: a.off, attrOff: value,
		redo: slices.Clone(b.value), undo: slices.Clone(a.value)}}
}

// editNode comes from the entries of one index node to those of another; add is the operation that adds one, behind
// which stands the one that deletes it.
func editNode(a, b []byte, add uint16) (list []change, ok bool) {
	entries := func(p []byte) (all [][]byte) {
		for off := int(le.Uint32(p)); off < int(le.Uint32(p[4:])); off += int(le.Uint16(p[off+8:])) {
			all = append(all, p[off:off+int(le.Uint16(p[off+8:]))])
		}
		return all
	}
	ea, eb := entries(a), entries(b)
	if !bytes.Equal(ea[len(ea)-1][8:], eb[len(eb)-1][8:]) {
		return nil, false
	}
	has := func(all [][]byte, e []byte) bool {
		return slices.ContainsFunc(all, func(o []byte) bool { return bytes.Equal(o, e) })
	}
	off := int(le.Uint32(a))
	kept := [][]byte{}
	for _, e := range ea[:len(ea)-1] {
		if has(eb, e) {
			kept, off = append(kept, e), off+len(e)
			continue
		}
		list = append(list, change{redoOp: add + 1, undoOp: add, attrOff: off, undo: slices.Clone(e)})
	}
	off = int(le.Uint32(a))
	for _, e := range eb[:len(eb)-1] {
		if !has(kept, e) {
			list = append(list, change{redoOp: add, undoOp: add + 1, attrOff: off, redo: slices.Clone(e)})
		}
		off += len(e)
	}
	return list, true
}

// blocks finds the changes of index blocks.
func (d *differ) blocks(f *file, at attr) {
	size := int64(4096)
	s, err := d.b.w.stream(f, typeIndexAlloc, at.name)
	require.NoError(d.t, err)
	to := target{f.number, typeIndexAlloc, size}
	for off := int64(0); off+size <= s.size; off += size {
		place := s.place(off / d.b.w.cluster)
		pa, pb := slices.Clone(d.a.raw[place:place+size]), slices.Clone(d.b.raw[place:place+size])
		errA, errB := checkBlock(pa), checkBlock(pb)
		if errB != nil || errA == nil && bytes.Equal(pa[0x40:], pb[0x40:]) {
			continue
		}
		if errA == nil {
			if list, ok := editNode(pa[0x18:], pb[0x18:], opAddEntryBlock); ok {
				for _, c := range list {
					c.attrOff += 0x18
					d.add(to, off/d.b.w.cluster, place, size, c)
				}
				continue
			}
		}
		c := change{redoOp: opUpdateNonresident, redo: pb}
		if errA == nil {
			c.undoOp, c.undo = opUpdateNonresident, pa
		}
		d.add(to, off/d.b.w.cluster, place, size, c)
	}
}

// bits finds the changes of a bitmap, as runs of bits.
func (d *differ) bits(f *file, at attr) {
	s, err := d.b.w.stream(f, at.typ, at.name)
	require.NoError(d.t, err)
	cluster := d.b.w.cluster
	for off := int64(0); off < s.size; off += cluster {
		place := s.place(off / cluster)
		bit := func(raw []byte, k int64) bool { return raw[place+k/8]>>(k%8)&1 == 1 }
		for k := int64(0); k < cluster*8; {
			was, is := bit(d.a.raw, k), bit(d.b.raw, k)
			n := int64(1)
			for ; k+n < cluster*8 && bit(d.a.raw, k+n) == was && bit(d.b.raw, k+n) == is; n++ {
			}
			if was != is {
				p := le.AppendUint32(le.AppendUint32(nil, uint32(k)), uint32(n))
				c := change{redoOp: opSetBits, undoOp: opClearBits, redo: p, undo: p}
				if !is {
					c.redoOp, c.undoOp = c.undoOp, c.redoOp
				}
				d.add(target{f.number, at.typ, 0}, off/cluster, place, cluster, c)
			}
			k += n
		}
	}
}
