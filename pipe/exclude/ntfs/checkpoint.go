package ntfs

import (
	"context"
	"maps"
	"slices"
)

// Operations of log records. Each record says how to redo and how to undo one change.
const (
	opNoop                     = 0x00
	opCompensation             = 0x01
	opInitRecord               = 0x02
	opFreeRecord               = 0x03
	opEndOfRecord              = 0x04
	opCreateAttribute          = 0x05
	opDeleteAttribute          = 0x06
	opUpdateResident           = 0x07
	opUpdateNonresident        = 0x08
	opUpdatePairs              = 0x09
	opDeleteDirty              = 0x0A
	opSetSizes                 = 0x0B
	opAddEntryRoot             = 0x0C
	opDeleteEntryRoot          = 0x0D
	opAddEntryBlock            = 0x0E
	opDeleteEntryBlock         = 0x0F
	opEndOfBlock               = 0x10
	opSetVCNRoot               = 0x11
	opSetVCNBlock              = 0x12
	opUpdateNameRoot           = 0x13
	opUpdateNameBlock          = 0x14
	opSetBits                  = 0x15
	opClearBits                = 0x16
	opHotFix                   = 0x17
	opEndTopLevel              = 0x18
	opPrepare                  = 0x19
	opCommit                   = 0x1A
	opForget                   = 0x1B
	opOpenAttribute            = 0x1C
	opAttributesDump           = 0x1D
	opNamesDump                = 0x1E
	opDirtyDump                = 0x1F
	opTransactionsDump         = 0x20
	opUpdateDataRoot           = 0x21
	opUpdateDataBlock          = 0x22
	opLast                     = opUpdateDataBlock
	entryAllocated      uint32 = 0xFFFFFFFF // an entry of a table that is in use
)

// logRecord is what NTFS writes into one record of its log.
type logRecord struct {
	*lfsRecord
	redoOp, undoOp uint16
	redo, undo     []byte
	target         uint32 // the attribute, by its place in the table of open ones
	recordOff      int
	attrOff        int
	block          int64 // bytes of the target from its first cluster on
	vcn            int64
	lcns           []int64
}

func parseLogRecord(r *lfsRecord) (*logRecord, error) {
	p := r.data
	if len(p) < 0x20 {
		return nil, logErrorf("record %#x has %d bytes", r.lsn, len(p))
	}
	l := &logRecord{lfsRecord: r, redoOp: le.Uint16(p), undoOp: le.Uint16(p[2:]), target: uint32(le.Uint16(p[0x0C:])),
		recordOff: int(le.Uint16(p[0x10:])), attrOff: int(le.Uint16(p[0x12:])), block: int64(le.Uint16(p[0x14:])) * stride,
		vcn: int64(le.Uint64(p[0x18:]))}
	if l.redoOp > opLast || l.undoOp > opLast {
		return nil, logErrorf("record %#x: operations %#x and %#x are not known", r.lsn, l.redoOp, l.undoOp)
	}
	n := int(le.Uint16(p[0x0E:]))
	if 0x20+8*n > len(p) || l.vcn < 0 {
		return nil, logErrorf("record %#x: %d clusters at %d in %d bytes", r.lsn, n, l.vcn, len(p))
	}
	for i := range n {
		l.lcns = append(l.lcns, int64(le.Uint64(p[0x20+8*i:])))
	}
	var err error
	if l.redo, err = l.part(4); err == nil {
		l.undo, err = l.part(8)
	}
	return l, err
}

// part is the redo or the undo data: its offset and its length stand at p. A length of a table's dump may not fit into
// 16 bits; such a dump goes to the end of the record.
func (l *logRecord) part(at int) ([]byte, error) {
	off, n := int(le.Uint16(l.data[at:])), int(le.Uint16(l.data[at+2:]))
	if l.redoOp >= opAttributesDump && l.redoOp <= opTransactionsDump && at == 4 && off <= len(l.data) && off >= 0x20 {
		return l.data[off:], nil
	}
	if n == 0 {
		return nil, nil
	}
	if off < 0x20 || off%4 != 0 || off+n > len(l.data) {
		return nil, logErrorf("record %#x: %d bytes at %d of %d", l.lsn, n, off, len(l.data))
	}
	return l.data[off : off+n], nil
}

// openAttribute is an attribute that was open: a target of records.
type openAttribute struct {
	typ       uint32
	file      ref
	indexSize int64 // bytes of a block, where it is an index
}

// dirtyPage is a part of an attribute that was newer in memory than on the disk, and since which record.
type dirtyPage struct {
	target uint32
	vcn    int64
	oldest uint64
	lcns   []int64 // 0: no longer there
}

// transaction is one that may have to be taken back.
type transaction struct {
	state    byte
	undoNext uint64
}

const (
	stateActive    = 1
	statePrepared  = 2
	stateCommitted = 3
)

// tables are what a checkpoint knows, brought up to the end of the log by the analysis.
type tables struct {
	attributes   map[uint32]openAttribute
	pages        []*dirtyPage
	dirty        map[dirtyKey]*dirtyPage // of each cluster of the pages
	transactions map[uint32]transaction
	work         int64 // steps that were taken over lists of the log's choosing
}

type dirtyKey struct {
	target uint32
	vcn    int64
}

// Bounds of the tables, and of the work on them.
const (
	maxDirty        = 1 << 16 // clusters of dirty pages
	maxTransactions = 1 << 12
	maxWork         = 1 << 26
)

var errTooMuch = logErrorf("it is more than can be replayed")

// restartArea is where NTFS begins to recover.
type restartArea struct {
	start                              uint64
	attributes, names, dirty, transact uint64
}

// readRestart reads the client's restart area. Version 0, of Windows on processors of 32 bits, has other tables.
func (l *lfs) readRestart(ctx context.Context) (a restartArea, err error) {
	r, err := l.read(ctx, l.restart)
	if err != nil {
		return a, logErrorf("restart area %#x: %v", l.restart, err)
	}
	if r.typ != recordRestart || len(r.data) < 0x40 {
		return a, logErrorf("restart area %#x: type %d, %d bytes", l.restart, r.typ, len(r.data))
	}
	if major, minor := le.Uint32(r.data), le.Uint32(r.data[4:]); major != 1 || minor != 0 {
		return a, logErrorf("version %d.%d of the restart area is not known", major, minor)
	}
	u := func(at int) uint64 { return le.Uint64(r.data[at:]) }
	return restartArea{start: u(8), attributes: u(0x10), names: u(0x18), dirty: u(0x20), transact: u(0x28)}, nil
}

// readTables reads the tables of a checkpoint.
func (l *lfs) readTables(ctx context.Context, a restartArea) (*tables, error) {
	t := &tables{attributes: map[uint32]openAttribute{}, dirty: map[dirtyKey]*dirtyPage{}, transactions: map[uint32]transaction{}}
	for _, dump := range []struct {
		lsn  uint64
		op   uint16
		size int // of an entry at the least
		add  func(off uint32, p []byte) error
	}{
		{a.attributes, opAttributesDump, 0x28, t.addAttribute},
		{a.dirty, opDirtyDump, 0x20, t.addDirty},
		{a.transact, opTransactionsDump, 0x28, t.addTransaction},
	} {
		if dump.lsn == 0 {
			continue
		}
		r, err := l.readLog(ctx, dump.lsn)
		if err != nil {
			return nil, err
		}
		if r.redoOp != dump.op {
			return nil, logErrorf("record %#x is no dump of a table: operation %#x", r.lsn, r.redoOp)
		}
		if err := walkTable(r.redo, dump.size, dump.add); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// readLog reads a record of NTFS.
func (l *lfs) readLog(ctx context.Context, lsn uint64) (*logRecord, error) {
	r, err := l.read(ctx, lsn)
	if err != nil {
		return nil, logErrorf("record %#x: %v", lsn, err)
	}
	if r.typ != recordOrdered {
		return nil, logErrorf("record %#x is a restart area", lsn)
	}
	return parseLogRecord(r)
}

// walkTable visits the entries of a table that are in use. Entries are named by their place.
func walkTable(p []byte, least int, add func(off uint32, p []byte) error) error {
	if len(p) < 0x18 {
		return logErrorf("a table of %d bytes", len(p))
	}
	size, n := int(le.Uint16(p)), int(le.Uint16(p[2:]))
	if size < least || size%4 != 0 || 0x18+n*size > len(p) {
		return logErrorf("a table of %d entries of %d bytes in %d", n, size, len(p))
	}
	for off := 0x18; n > 0; off, n = off+size, n-1 {
		if le.Uint32(p[off:]) != entryAllocated {
			continue
		}
		if err := add(uint32(off), p[off:off+size]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tables) addAttribute(off uint32, p []byte) error {
	if len(p) < 0x28 {
		return logErrorf("an open attribute of %d bytes", len(p))
	}
	t.attributes[off] = openAttribute{typ: le.Uint32(p[8:]), file: ref(le.Uint64(p[0x10:])), indexSize: int64(le.Uint32(p[4:]))}
	return nil
}

func (t *tables) addDirty(_ uint32, p []byte) error {
	d := &dirtyPage{target: le.Uint32(p[4:]), vcn: int64(le.Uint64(p[0x10:])), oldest: le.Uint64(p[0x18:])}
	n := int(le.Uint32(p[0x0C:]))
	if n < 0 || n > (len(p)-0x20)/8 || d.vcn < 0 || d.vcn >= 1<<55 {
		return logErrorf("a dirty page of %d clusters at %d", n, d.vcn)
	}
	for i := range n {
		d.lcns = append(d.lcns, int64(le.Uint64(p[0x20+8*i:])))
	}
	return t.addPage(d)
}

// addPage adds a dirty page; what is known of a cluster stays.
func (t *tables) addPage(d *dirtyPage) error {
	if len(t.dirty)+len(d.lcns) > maxDirty {
		return errTooMuch
	}
	t.pages = append(t.pages, d)
	for i := range d.lcns {
		if key := (dirtyKey{d.target, d.vcn + int64(i)}); t.dirty[key] == nil {
			t.dirty[key] = d
		}
	}
	return nil
}

func (t *tables) addTransaction(off uint32, p []byte) error {
	if p[4] < stateActive || p[4] > stateCommitted || len(t.transactions) >= maxTransactions {
		return logErrorf("a transaction in state %d, behind %d others", p[4], len(t.transactions))
	}
	t.transactions[off] = transaction{state: p[4], undoNext: le.Uint64(p[0x18:])}
	return nil
}

// page finds the dirty page that a record is about.
func (t *tables) page(target uint32, vcn int64) *dirtyPage {
	return t.dirty[dirtyKey{target, vcn}]
}

// follow brings the tables up to one more record: the analysis.
func (t *tables) follow(r *logRecord) error {
	if err := t.followTransaction(r); err != nil {
		return err
	}
	switch r.redoOp {
	case opOpenAttribute:
		return t.addAttribute(r.target, r.redo)
	case opDeleteDirty:
		return t.deleteDirty(r)
	}
	if len(r.lcns) == 0 || t.page(r.target, r.vcn) != nil {
		return nil
	}
	return t.addPage(&dirtyPage{target: r.target, vcn: r.vcn, oldest: r.lsn, lcns: slices.Clone(r.lcns)})
}

func (t *tables) followTransaction(r *logRecord) error {
	if len(t.transactions) >= maxTransactions {
		return errTooMuch
	}
	x := t.transactions[r.transaction]
	switch r.redoOp {
	case opForget:
		delete(t.transactions, r.transaction)
		return nil
	case opAttributesDump, opNamesDump, opDirtyDump, opTransactionsDump: // of a checkpoint, in no transaction
		return nil
	case opCommit:
		x.state = stateCommitted
	case opPrepare:
		x.state = statePrepared
	default:
		if x.state == 0 {
			x.state = stateActive
		}
	}
	x.undoNext = r.lsn
	if r.undoOp == opCompensation || r.redoOp == opEndTopLevel {
		x.undoNext = r.lsnUndoNext()
	}
	t.transactions[r.transaction] = x
	return nil
}

func (r *logRecord) lsnUndoNext() uint64 { return r.lfsRecord.undoNext }

// deleteDirty: clusters that were given away since must not be written, for others may have them.
func (t *tables) deleteDirty(r *logRecord) error {
	for p := r.redo; len(p) > 0; p = p[16:] {
		if len(p) < 16 {
			return logErrorf("record %#x: %d bytes of a list of clusters", r.lsn, len(p))
		}
		from, n := int64(le.Uint64(p)), int64(le.Uint64(p[8:]))
		if t.work += int64(len(t.dirty)); t.work > maxWork {
			return errTooMuch
		}
		for _, d := range t.pages {
			for i, lcn := range d.lcns {
				if lcn >= from && lcn-from < n {
					d.lcns[i] = 0
				}
			}
		}
	}
	return nil
}

// active are the transactions that did not come to an end, the one with the newest record first.
func (t *tables) active() []uint32 {
	ids := slices.Sorted(maps.Keys(t.transactions))
	return slices.DeleteFunc(ids, func(id uint32) bool { return t.transactions[id].state == stateCommitted })
}
