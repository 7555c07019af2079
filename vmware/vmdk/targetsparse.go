package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// sparseTarget is a monolithicSparse disk. Grains take space in the file when something that is not zero is written to
// them, in the order in which that happens.
//
//	header │ descriptor │ directory copy │ table copies │ directory │ tables │ grains
type sparseTarget struct {
	base
	file   *diskfile.Pending
	desc   []byte
	layout sparseLayout

	mu     sync.Mutex
	places places
	next   int64 // sector at which the file ends
}

// sparseLayout is what stands where, in sectors.
type sparseLayout struct {
	tables, dirLen       int64 // how many tables; length of a directory
	spareDir, spareTable int64
	dir, firstTable      int64
	overhead             int64 // the first grain
}

func layoutFor(size int64) sparseLayout {
	l := sparseLayout{tables: (size + tableCovers - 1) / tableCovers}
	l.dirLen = max((l.tables*4+sector-1)/sector, 1)
	l.spareDir = 1 + descSectors
	l.spareTable = l.spareDir + l.dirLen
	l.dir = l.spareTable + l.tables*tableSectors
	l.firstTable = l.dir + l.dirLen
	end := l.firstTable + l.tables*tableSectors
	l.overhead = (end + grainSectors - 1) / grainSectors * grainSectors
	return l
}

func createSparse(path string, size int64, d *Descriptor, o *CreateOptions) (pipe.ExtentTarget, error) {
	if size > maxCreate {
		return nil, fmt.Errorf("a sparse disk of %d bytes: %w", size, fs.ErrInvalid)
	}
	desc, err := d.embed()
	if err != nil {
		return nil, err
	}
	file, err := diskfile.Begin(path, &o.CreateOptions)
	if err != nil {
		return nil, err
	}
	l := layoutFor(size)
	return &sparseTarget{
		base: base{path: path, size: size}, file: file, desc: desc, layout: l, places: newPlaces(), next: l.overhead,
	}, nil
}

// WriteAt implements [pipe.Target].
func (t *sparseTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.check(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		n, err := t.writeSome(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// writeSome writes the part of p that lies in one grain, or in a row of grains that are neighbours in the file.
func (t *sparseTarget) writeSome(p []byte, off int64) (int, error) {
	n := min(len(p), int(grainBytes-off%grainBytes))
	if diskfile.IsZero(p[:n]) {
		return n, t.zero(off, int64(n))
	}
	host, err := t.place(off)
	if err != nil {
		return 0, t.fail("write", off, err)
	}
	for n < len(p) {
		m := min(len(p)-n, grainBytes)
		if diskfile.IsZero(p[n:n+m]) || !t.placeAfter(off+int64(n), host+int64(n)) {
			break
		}
		n += m
	}
	_, err = t.file.WriteAt(p[:n], host)
	return n, err
}

// place finds where a byte of the disk goes in the file.
func (t *sparseTarget) place(off int64) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	grain := off / grainBytes
	at := t.places.get(grain)
	if at == 0 {
		var err error
		if at, err = take(&t.next, grainSectors); err != nil {
			return 0, err
		}
		t.places.set(grain, at)
	}
	return int64(at)*sector + off%grainBytes, nil
}

// placeAfter reports whether the grain at off has its place at host, giving it that place if it has none yet and the
// file ends there.
func (t *sparseTarget) placeAfter(off, host int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.places.get(off / grainBytes)
	if at == 0 && t.next*sector == host {
		if at, err := take(&t.next, grainSectors); err == nil {
			t.places.set(off/grainBytes, at)
			return true
		}
	}
	return at != 0 && int64(at)*sector == host
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero.
func (t *sparseTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.checkMark(ctx, e); err != nil {
		return err
	}
	for off := e.Off; off < e.End(); {
		n := min(e.End()-off, grainBytes-off%grainBytes)
		if t.emptyTable(off) {
			n = min(e.End()-off, tableCovers-off%tableCovers)
		} else if err := t.zero(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (t *sparseTarget) emptyTable(off int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.places.tables[off/tableCovers] == nil
}

// zero makes a range within one grain zero. A grain keeps its place, where a later write puts it again.
func (t *sparseTarget) zero(off, n int64) error {
	t.mu.Lock()
	at := t.places.get(off / grainBytes)
	t.mu.Unlock()
	if at == 0 {
		return nil
	}
	return t.file.Zero(int64(at)*sector+off%grainBytes, n)
}

// Commit implements [pipe.Target], with the errors of [diskfile.Pending.Commit].
func (t *sparseTarget) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	if err := t.finish(); err != nil {
		return errors.Join(err, t.file.Close())
	}
	return t.file.Commit(ctx)
}

// Close implements [pipe.Target].
func (t *sparseTarget) Close() error {
	t.closed.Store(true)
	return t.file.Close()
}

// finish writes the tables, the directories, the descriptor, and the header last.
func (t *sparseTarget) finish() error {
	l := t.layout
	for i, table := range t.places.tables {
		b := make([]byte, 0, perTable*4)
		for _, at := range table {
			b = binary.LittleEndian.AppendUint32(b, at)
		}
		if err := t.put(b, l.spareTable+i*tableSectors, l.firstTable+i*tableSectors); err != nil {
			return err
		}
	}
	for _, d := range [][2]int64{{l.spareDir, l.spareTable}, {l.dir, l.firstTable}} {
		b := make([]byte, 0, l.tables*4)
		for i := range l.tables {
			b = binary.LittleEndian.AppendUint32(b, uint32(d[1]+i*tableSectors))
		}
		if err := t.put(b, d[0]); err != nil {
			return err
		}
	}
	if err := t.file.Truncate(t.next * sector); err != nil {
		return err
	}
	h := hosted{
		version: 1, flags: flagNewlines | flagRedundant, capacity: sectors(t.size), grain: grainSectors, descriptor: 1, descLen: descSectors,
		perTable: perTable, spareDir: uint64(l.spareDir), dir: uint64(l.dir), overhead: l.overhead,
	}
	return t.put(slices.Concat(h.append(nil), t.desc), 0)
}

// put writes b at sectors of the file.
func (t *sparseTarget) put(b []byte, at ...int64) error {
	for _, s := range at {
		if _, err := t.file.WriteAt(b, s*sector); err != nil {
			return err
		}
	}
	return nil
}
