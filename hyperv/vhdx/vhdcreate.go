package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// VHDTarget is a VHD that is being made, fixed or dynamic. It has the extents ability.
type VHDTarget struct {
	file      *diskfile.Pending
	path      string
	size      int64
	whole     int64 // size in whole sectors
	id        GUID
	fixed     bool
	blockSize int64
	closed    atomic.Bool

	mu    sync.Mutex
	table []byte // as in the file
	end   int64
}

var _ pipe.ExtentTarget = (*VHDTarget)(nil)

const vhdTableOff = footerLen + dynHeader

// CreateVHD starts a VHD with a disk of up to 2040 GiB at path, with the errors of [diskfile.Begin]; the file appears at
// Commit. Of the options, those of the file, Type (Fixed or Dynamic), BlockSize (64 KiB to 256 MiB; zero: 2 MiB) and
// DiskID are used. The file's disk is longer than the target where size is no multiple of 512, and at least 512; what is
// added is zero.
func CreateVHD(ctx context.Context, path string, size int64, opts *CreateOptions) (*VHDTarget, error) {
	o := CreateOptions{}
	if opts != nil {
		o = *opts
	}
	if o.BlockSize == 0 {
		o.BlockSize = 2 * mib
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case size < 0 || size > maxVHD:
		return nil, fmt.Errorf("disk size %d, a VHD ends at 2040 GiB: %w", size, fs.ErrInvalid)
	case o.BlockSize < 64<<10 || o.BlockSize > maxBlock || bits.OnesCount64(uint64(o.BlockSize)) != 1:
		return nil, fmt.Errorf("block size %d is no power of two from 64 KiB to 256 MiB: %w", o.BlockSize, fs.ErrInvalid)
	case o.Type > Fixed || o.Parent != "" || o.SectorSize > vhdSector:
		return nil, fmt.Errorf("a VHD that is %v, with sectors of %d: %w", o.Type, o.SectorSize, errors.ErrUnsupported)
	}
	file, err := diskfile.Begin(path, &o.CreateOptions)
	if err != nil {
		return nil, err
	}
	t := &VHDTarget{
		file: file, path: path, size: size, whole: max((size+vhdSector-1)/vhdSector, 1) * vhdSector,
		id: o.DiskID, fixed: o.Type == Fixed, blockSize: o.BlockSize,
	}
	if t.id == (GUID{}) {
		t.id = NewGUID()
	}
	t.layout()
	return t, nil
}

// layout says where the first block goes. A fixed disk has no tables.
func (t *VHDTarget) layout() {
	if t.fixed {
		t.end = t.whole
		return
	}
	entries := (t.whole + t.blockSize - 1) / t.blockSize
	t.table = make([]byte, (entries*4+vhdSector-1)/vhdSector*vhdSector)
	for i := range t.table {
		t.table[i] = 0xff
	}
	t.end = vhdTableOff + int64(len(t.table))
}

// Size implements [pipe.Target].
func (t *VHDTarget) Size() int64 { return t.size }

func (t *VHDTarget) fail(op string, off int64, err error) error {
	return &diskfile.Error{Op: op, Path: t.path, Off: off, Err: err}
}

func (t *VHDTarget) check(ctx context.Context, op string, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.closed.Load() {
		return t.fail(op, off, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > t.size || n > t.size-off {
		return t.fail(op, off, fmt.Errorf("%w: %d bytes leave the disk of %d", fs.ErrInvalid, n, t.size))
	}
	return nil
}

// WriteAt implements [pipe.Target].
func (t *VHDTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.check(ctx, "write", off, int64(len(p))); err != nil {
		return 0, err
	}
	if t.fixed {
		return t.file.WriteAt(p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), t.blockSize-at%t.blockSize))
		q := p[done : done+n]
		host, there, err := t.place(at, !diskfile.IsZero(q))
		if err == nil && there {
			_, err = t.file.WriteAt(q, host)
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// place is where a byte of the disk is in the file. A block without a place gets one if create says so.
func (t *VHDTarget) place(off int64, create bool) (host int64, there bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.table[off/t.blockSize*4:][:4]
	bitmap := vhdBitmapLen(t.blockSize)
	v := be.Uint32(e)
	if v == noBlock {
		if !create {
			return 0, false, nil
		}
		v = uint32(t.end / vhdSector)
		full := make([]byte, bitmap)
		for i := range min(bitmap, t.blockSize/vhdSector/8) {
			full[i] = 0xff
		}
		if _, err := t.file.WriteAt(full, t.end); err != nil {
			return 0, false, err
		}
		t.end += bitmap + t.blockSize
		be.PutUint32(e, v)
	}
	return int64(v)*vhdSector + bitmap + off%t.blockSize, true, nil
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero; Unchanged is diskfile.ErrNoBase.
func (t *VHDTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.check(ctx, "mark", e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged:
		return t.fail("mark", e.Off, diskfile.ErrNoBase)
	case e.Kind != pipe.Zero && !e.Kind.Dropped():
		return t.fail("mark", e.Off, fmt.Errorf("%w: %v cannot be marked", fs.ErrInvalid, e.Kind))
	case t.fixed:
		return t.file.Zero(e.Off, e.Len)
	}
	for off := e.Off; off < e.End(); {
		n := min(e.End()-off, t.blockSize-off%t.blockSize)
		host, there, err := t.place(off, false)
		if err == nil && there {
			err = t.file.Zero(host, n)
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Commit implements [pipe.Target], with the errors of [diskfile.Pending.Commit].
func (t *VHDTarget) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	if err := t.finish(); err != nil {
		return errors.Join(err, t.file.Close())
	}
	return t.file.Commit(ctx)
}

// finish writes what is around the blocks.
func (t *VHDTarget) finish() error {
	f := footer{dataOffset: 1<<64 - 1, created: vhdTime(time.Now()), size: t.whole, kind: vhdFixed, id: t.id}
	if !t.fixed {
		f.kind, f.dataOffset = vhdDynamic, footerLen
	}
	b := f.encode()
	if err := t.file.Truncate(t.end + footerLen); err != nil {
		return err
	}
	if !t.fixed {
		front := append(append(append([]byte{}, b...), encodeDynamic(t.whole, t.blockSize)...), t.table...)
		if _, err := t.file.WriteAt(front, 0); err != nil {
			return err
		}
	}
	_, err := t.file.WriteAt(b, t.end)
	return err
}

// encodeDynamic is the header of a dynamic disk that follows the footer's copy and precedes the table.
func encodeDynamic(size, blockSize int64) []byte {
	b := make([]byte, dynHeader)
	copy(b, dynCookie)
	be.PutUint64(b[8:], 1<<64-1)
	be.PutUint64(b[16:], vhdTableOff)
	be.PutUint32(b[24:], vhdVersion)
	be.PutUint32(b[28:], uint32((size+blockSize-1)/blockSize))
	be.PutUint32(b[32:], uint32(blockSize))
	be.PutUint32(b[36:], vhdSum(b, 36))
	return b
}

// Close implements [pipe.Target].
func (t *VHDTarget) Close() error {
	t.closed.Store(true)
	return t.file.Close()
}
