package xfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// view is the volume as it lies on the disk, or, with an overlay, as it is after the log's replay.
type view struct {
	vol  pipe.Image
	over *overlay
}

// read fills p from byte off. It says whether any of it came from the overlay: such bytes carry the checksum that their
// block had before they were logged.
func (v view) read(ctx context.Context, p []byte, off int64) (patched bool, err error) {
	n, err := v.vol.ReadAt(ctx, p, off)
	if n < len(p) {
		if errors.Is(err, io.EOF) {
			return false, &fsys.CorruptError{What: "volume", Off: off, Why: fmt.Sprintf("it ends before %d more bytes", len(p))}
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return false, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return v.over.patch(p, off), nil
}

// overlaySector is the overlay's grain: the smallest sector there is, and the unit in which the log counts.
const overlaySector = 512

// overlay is what a log's replay changed, by sector, without the zeros at a sector's end: of most inodes they are more
// than half. It is written by the replay only, and read-only after.
type overlay struct {
	sectors map[int64][]byte
	budget  *budget // of the whole replay
	own     budget
}

// budget bounds what the replay keeps in memory.
type budget struct{ left int64 }

// errBudget becomes a doubt: the log would need more memory than a reader may take.
var errBudget = &fsys.CorruptError{What: "log", Off: -1, Why: "its changes need more memory than is allowed for one volume"}

func (b *budget) take(n int64) error {
	if b.left -= n; b.left < 0 {
		return errBudget
	}
	return nil
}

func (b *budget) give(n int64) { b.left += n }

// sectorCost is what a sector's place in the overlay takes besides its bytes.
const sectorCost = 80

func newOverlay(b *budget) *overlay {
	return &overlay{sectors: map[int64][]byte{}, budget: b, own: budget{left: overlayMemory}}
}

// patch puts what the overlay has for [off, off+len(p)) into p.
func (o *overlay) patch(p []byte, off int64) (patched bool) {
	if o == nil || len(o.sectors) == 0 {
		return false
	}
	for at := off &^ (overlaySector - 1); at < off+int64(len(p)); at += overlaySector {
		if s, ok := o.sectors[at/overlaySector]; ok {
			patched = true
			part := p[max(0, at-off):min(int64(len(p)), at+overlaySector-off)]
			n := copy(part, s[min(int64(len(s)), max(0, off-at)):])
			clear(part[n:])
		}
	}
	return patched
}

// write puts p at byte off. Sectors that p covers in part must be complete: base reads what lay there before.
func (o *overlay) write(p []byte, off int64, base func(p []byte, off int64) error) error {
	var whole [overlaySector]byte
	for len(p) > 0 {
		at := off &^ (overlaySector - 1)
		n := min(int64(len(p)), at+overlaySector-off)
		if n < overlaySector {
			if err := base(whole[:], at); err != nil {
				return err
			}
		}
		copy(whole[off-at:], p[:n])
		if err := o.set(at/overlaySector, whole[:]); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// set keeps one sector.
func (o *overlay) set(sector int64, b []byte) error {
	b = bytes.TrimRight(b, "\x00")
	old, had := o.sectors[sector]
	cost := int64(max(len(b), cap(old)) - cap(old))
	if !had {
		cost += sectorCost
	}
	if err := errors.Join(o.own.take(cost), o.budget.take(cost)); err != nil {
		return err
	}
	o.sectors[sector] = append(old[:0], b...)
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of a structure in which the checksum itself stands at byte at, and counts as zero.
func sum(b []byte, at int) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:at])
	c = crc32.Update(c, castagnoli, zero[:])
	return crc32.Update(c, castagnoli, b[at+4:])
}

// sumOK compares it with what stands there: in little-endian order, unlike everything else.
func sumOK(b []byte, at int) bool { return sum(b, at) == le.Uint32(b[at:]) }
