package ntfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// readLog makes sure that nothing in the log is missing on the volume. Where something is, it is put into its place in
// memory, which counts only if the caller trusts it.
func (v *volume) readLog(ctx context.Context, trust bool) error {
	l, err := v.disk.openLog(ctx)
	if err == nil && l != nil && !l.clean {
		err = v.replayLog(ctx, l, trust)
	}
	var bad *logError
	var damaged *fsys.CorruptError
	if errors.As(err, &bad) || errors.As(err, &damaged) || errors.Is(err, errOverlayFull) {
		v.doubt(fmt.Sprintf("the log could not be replayed: %v", err))
		return nil
	}
	return err
}

func (v *volume) replayLog(ctx context.Context, l *lfs, trust bool) error {
	r := &replay{lfs: l, view: v.disk, over: newOverlay(v.disk.src)}
	if err := r.run(ctx); err != nil {
		return err
	}
	n, err := r.over.settle(ctx)
	if err != nil || n == 0 {
		return err
	}
	if !trust {
		v.doubt(fmt.Sprintf("the log holds changes of %d bytes that are not in their places, and its replay is not trusted", n))
		return nil
	}
	now, _, err := newView(ctx, r.over, v.disk.geometry)
	if err != nil {
		return logErrorf("what came out cannot be read: %v", err)
	}
	v.now, v.info.Replayed = now, n
	return nil
}

// replay is one recovery: the analysis from the last checkpoint to the end, the redo of what may not be on the disk,
// and the undo of the transactions that did not come to an end.
type replay struct {
	*lfs
	*view
	over   *overlay
	tables *tables
}

func (r *replay) run(ctx context.Context) error {
	area, err := r.readRestart(ctx)
	if err != nil {
		return err
	}
	if r.tables, err = r.readTables(ctx, area); err != nil {
		return err
	}
	start := area.start
	if start == 0 {
		start = r.restart
	}
	if err := r.walk(ctx, start, r.tables.follow); err != nil {
		return err
	}
	for _, d := range r.tables.pages {
		if d.oldest != 0 && d.oldest < start {
			start = d.oldest
		}
	}
	redo := func(rec *logRecord) error {
		if p := r.tables.page(rec.target, rec.vcn); p == nil || rec.lsn < p.oldest {
			return r.knows(rec)
		}
		return r.apply(ctx, rec, rec.redoOp, rec.redo, len(rec.undo), rec.lsn)
	}
	if err := r.walk(ctx, start, redo); err != nil {
		return err
	}
	return r.undoAll(ctx)
}

// knows: a record that needs no redo must still be one that could be redone.
func (r *replay) knows(rec *logRecord) error {
	if rec.redoOp == opHotFix {
		return logErrorf("record %#x: operation %#x", rec.lsn, rec.redoOp)
	}
	return nil
}

// walk visits the records of NTFS from a number to the end of the log.
func (r *replay) walk(ctx context.Context, from uint64, visit func(*logRecord) error) error {
	last := uint64(0)
	for lsn, n := from, int64(0); ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := r.read(ctx, lsn)
		if errors.Is(err, errNoRecord) || errors.Is(err, errNoPage) {
			if last == 0 {
				return logErrorf("record %#x is not there", from)
			}
			return r.checkEnd(ctx, lsn, last)
		}
		if err != nil {
			return err
		}
		if n > r.lfs.size/lfsHeader || rec.next <= lsn {
			return logErrorf("its records have no end")
		}
		if rec.typ == recordOrdered {
			l, err := parseLogRecord(rec)
			if err == nil {
				err = visit(l)
			}
			if err != nil {
				return err
			}
		}
		last, lsn = lsn, rec.next
	}
}

// undoAll takes back what transactions did that did not come to an end: always the newest record of all that are left.
func (r *replay) undoAll(ctx context.Context) error {
	for steps := int64(0); ; steps++ {
		id, newest := uint32(0), uint64(0)
		active := r.tables.active()
		if r.tables.work += int64(len(active)); r.tables.work > maxWork {
			return errTooMuch
		}
		for _, k := range active {
			x := r.tables.transactions[k]
			if x.state == statePrepared {
				return logErrorf("transaction %#x is prepared: another volume decides about it", k)
			}
			if x.undoNext > newest {
				id, newest = k, x.undoNext
			}
		}
		if newest == 0 {
			return nil
		}
		if steps > r.lfs.size/lfsHeader {
			return logErrorf("transactions have no beginning")
		}
		rec, err := r.readLog(ctx, newest)
		if err != nil {
			return err
		}
		if rec.lsnUndoNext() >= newest {
			return logErrorf("record %#x: what to undo next is %#x", newest, rec.lsnUndoNext())
		}
		if err := r.undo(ctx, rec); err != nil {
			return err
		}
		r.tables.transactions[id] = transaction{state: stateActive, undoNext: rec.lsnUndoNext()}
	}
}

func (r *replay) undo(ctx context.Context, rec *logRecord) error {
	if rec.undoOp == opNoop || rec.undoOp == opCompensation {
		return nil
	}
	return r.apply(ctx, rec, rec.undoOp, rec.undo, len(rec.redo), 0)
}

// apply does one operation with its data; otherLen is the length of the data for the other direction. An lsn of 0 is an
// undo, which is done whatever the target's number says.
func (r *replay) apply(ctx context.Context, rec *logRecord, op uint16, data []byte, otherLen int, lsn uint64) error {
	var err error
	switch op {
	case opNoop, opCompensation, opDeleteDirty, opEndTopLevel, opPrepare, opCommit, opForget, opOpenAttribute,
		opAttributesDump, opNamesDump, opDirtyDump, opTransactionsDump:
		return nil
	case opInitRecord, opFreeRecord, opEndOfRecord, opCreateAttribute, opDeleteAttribute, opUpdateResident, opUpdatePairs,
		opSetSizes, opAddEntryRoot, opDeleteEntryRoot, opSetVCNRoot, opUpdateNameRoot, opUpdateDataRoot:
		err = r.applyRecord(ctx, rec, op, data, otherLen, lsn)
	case opAddEntryBlock, opDeleteEntryBlock, opEndOfBlock, opSetVCNBlock, opUpdateNameBlock, opUpdateDataBlock:
		err = r.applyBlock(ctx, rec, op, data, lsn)
	case opUpdateNonresident:
		if a := r.tables.attributes[rec.target]; a.typ == typeIndexAlloc {
			err = r.applyBlock(ctx, rec, op, data, lsn)
		} else {
			err = r.applyBytes(ctx, rec, data)
		}
	case opSetBits, opClearBits:
		err = r.applyBits(ctx, rec, op == opSetBits, data)
	default:
		err = misfit("it is not known")
	}
	var bad *fitError
	if errors.As(err, &bad) {
		return logErrorf("record %#x: operation %#x does not fit: %v", rec.lsn, op, err)
	}
	return err
}

// fitError says why an operation does not fit its target.
type fitError struct{ why string }

func (e *fitError) Error() string { return e.why }

func misfit(format string, args ...any) error { return &fitError{fmt.Sprintf(format, args...)} }

// target is the attribute that a record is about; it must be of one of the types, and of the file where one is given.
func (r *replay) target(rec *logRecord, file int64, types ...uint32) (openAttribute, error) {
	a, ok := r.tables.attributes[rec.target]
	if !ok {
		return a, misfit("attribute %#x is not open", rec.target)
	}
	if file >= 0 && a.file.number() != file {
		return a, misfit("it is about file %d", a.file.number())
	}
	for _, t := range types {
		if a.typ == t {
			return a, nil
		}
	}
	return a, misfit("it is about an attribute of type %#x", a.typ)
}

// pieces calls do for where the bytes [off, off+n) of a record's target lie in the volume. A piece whose cluster was
// given away since is left out.
func (r *replay) pieces(rec *logRecord, off, n int64, do func(at, from, to int64) error) error {
	page := r.tables.page(rec.target, rec.vcn)
	for at := int64(0); at < n; {
		vcn, in := rec.vcn+(off+at)/r.cluster, (off+at)%r.cluster
		step := min(n-at, r.cluster-in)
		lcn := int64(-1)
		if k := vcn - rec.vcn; k < int64(len(rec.lcns)) {
			lcn = rec.lcns[k]
		}
		if page != nil {
			if k := vcn - page.vcn; k >= 0 && k < int64(len(page.lcns)) {
				lcn = page.lcns[k]
			}
		}
		if lcn < 0 || lcn >= r.clusters {
			return misfit("its byte %d lies nowhere", off+at)
		}
		if lcn > 0 { // cluster 0 is the boot sector's, which no record is about
			if err := do(lcn*r.cluster+in, at, at+step); err != nil {
				return err
			}
		}
		at += step
	}
	return nil
}

// load reads bytes of a record's target; false where they no longer belong to it.
func (r *replay) load(ctx context.Context, rec *logRecord, off int64, p []byte) (there bool, err error) {
	read := int64(0)
	err = r.pieces(rec, off, int64(len(p)), func(at, from, to int64) error {
		read += to - from
		return readFull(ctx, r.over, p[from:to], at)
	})
	return read == int64(len(p)), err
}

func (r *replay) store(ctx context.Context, rec *logRecord, off int64, p []byte) error {
	return r.pieces(rec, off, int64(len(p)), func(at, from, to int64) error { return r.over.write(ctx, p[from:to], at) })
}

// applyBytes overwrites bytes of a stream.
func (r *replay) applyBytes(ctx context.Context, rec *logRecord, data []byte) error {
	a, ok := r.tables.attributes[rec.target]
	if !ok || a.file.number() == numberTable && a.typ == typeData || a.file.number() == numberLog {
		return misfit("it would overwrite attribute %#x of file %d", a.typ, a.file.number())
	}
	return r.store(ctx, rec, rec.block+int64(rec.recordOff+rec.attrOff), data)
}

// applyBits sets or clears bits of a bitmap.
func (r *replay) applyBits(ctx context.Context, rec *logRecord, set bool, data []byte) error {
	a, err := r.target(rec, -1, typeData, typeBitmap)
	if err != nil {
		return err
	}
	if a.typ == typeData && a.file.number() != numberBitmap || len(data) < 8 {
		return misfit("%d bytes about file %d", len(data), a.file.number())
	}
	from, n := int64(le.Uint32(data)), int64(le.Uint32(data[4:]))
	if n == 0 || n > 1<<20 {
		return misfit("%d bits", n)
	}
	first := rec.block + int64(rec.recordOff) + from/8
	p := make([]byte, (from+n+7)/8-from/8)
	if there, err := r.load(ctx, rec, first, p); err != nil || !there {
		return err
	}
	for k := from % 8; k < from%8+n; k++ {
		if set {
			p[k/8] |= 1 << (k % 8)
		} else {
			p[k/8] &^= 1 << (k % 8)
		}
	}
	return r.store(ctx, rec, first, p)
}
