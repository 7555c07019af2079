package nfc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// TargetOptions change how a target works. Nil and zero fields are good defaults.
type TargetOptions struct {
	// Base says that the disk holds the base of what is written: ranges marked Unchanged stay as they are. Otherwise
	// Unchanged is refused.
	Base bool
	// Fresh says that the disk was just made and reads as zeros everywhere: ranges marked as zero, in parts of the disk
	// that nothing was written to, are then left alone, and a thin disk stays thin. Otherwise zeros are written: the
	// protocol has no shorter way to say them.
	Fresh bool
}

// Target writes to a disk. It is a pipe.ExtentTarget.
//
// A disk is not a new one: it has no way back to what it held before. Close without Commit leaves what was written there,
// and ranges that are neither written nor marked keep what they held; pipe.Copy leaves none.
//
// Commit closes the file and waits for the host's answer, which is the only word that the protocol has for it: what the
// host answered for is then taken to be durable. A write that was answered before a connection was lost is taken to have
// reached the file, which the host closes itself then; writes that were not answered are repeated, whole and with the same
// bytes, where [Options.Redial] is set.
type Target struct {
	d       *Disk
	opts    TargetOptions
	closed  atomic.Bool
	touched touched
}

// Target returns a target that writes to the disk. It ends the session with its Close. A disk that is open for reading is
// fs.ErrPermission.
func (d *Disk) Target(opts *TargetOptions) (*Target, error) {
	if !d.write {
		return nil, d.explain("write", fmt.Errorf("it is open for reading: %w", fs.ErrPermission))
	}
	t := &Target{d: d}
	if opts != nil {
		t.opts = *opts
	}
	if t.opts.Base && t.opts.Fresh {
		return nil, d.explain("write", fmt.Errorf("a disk with a base is not fresh: %w", fs.ErrInvalid))
	}
	return t, nil
}

// Size is the capacity in bytes.
func (t *Target) Size() int64 { return t.d.size }

// Flight is as pipe.Far has it.
func (t *Target) Flight() pipe.Flight { return t.d.Flight() }

func (t *Target) ready(ctx context.Context, op string, off, n int64) error {
	switch {
	case t.closed.Load():
		return t.d.explain(op, errClosed)
	case off < 0 || n < 0 || n > t.d.size || off > t.d.size-n:
		return t.d.explain(op, &pipe.RangeError{Op: op, Off: off, Len: n, Err: fs.ErrInvalid})
	}
	return ctx.Err()
}

// WriteAt is as pipe.Target has it. On nil the host has answered for every byte.
func (t *Target) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.ready(ctx, "write", off, int64(len(p))); err != nil {
		return 0, err
	}
	t.touched.add(off, int64(len(p)))
	n, err := t.d.inPieces(p, off, t.d.c.opts.Buffer, func(part []byte, off int64) error {
		return t.d.writePiece(ctx, part, off)
	})
	if err != nil {
		return n, t.d.fault(ctx, "write", p[n:], off+int64(n), err)
	}
	return n, nil
}

// writePiece writes whole sectors, or reads the sector that a part lies in and writes it with the part changed. Ranges
// that do not overlap may share a sector, so only one is changed at a time.
func (d *Disk) writePiece(ctx context.Context, p []byte, off int64) error {
	if d.whole(p, off) {
		return d.c.request(ctx, func(handle uint64) *call { return newWrite(handle, p, off) })
	}
	d.amending.Lock()
	defer d.amending.Unlock()
	sector, at, err := d.readSector(ctx, off)
	if err != nil {
		return err
	}
	copy(sector[off-at:], p)
	return d.c.request(ctx, func(handle uint64) *call { return newWrite(handle, sector, at) })
}

// Mark is as pipe.ExtentTarget has it. Everything but Unchanged becomes zeros, written or left as [TargetOptions.Fresh]
// says; Unchanged needs [TargetOptions.Base].
func (t *Target) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.ready(ctx, "mark", e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged && t.opts.Base:
		return nil
	case e.Kind == pipe.Unchanged:
		return t.d.explain("mark", fmt.Errorf("%v without a base: %w", e, errors.ErrUnsupported))
	case e.Kind == pipe.Data || e.Kind > pipe.Unchanged:
		return t.d.explain("mark", fmt.Errorf("%v: %w", e, fs.ErrInvalid))
	}
	blank := blanks(t.d.c.opts.Buffer)
	for off := e.Off; off < e.End(); {
		n := min(e.End()-off, int64(len(blank)))
		if !t.opts.Fresh || t.touched.any(off, n) {
			if _, err := t.WriteAt(ctx, blank[:n], off); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// zeros is what marks write, of every target at once.
var zeros = sync.OnceValue(func() []byte { return make([]byte, largestBuffer) })

func blanks(n int) []byte { return zeros()[:n] }

// Commit is as pipe.Target has it: it closes the file. The target takes nothing after it, whatever it returns.
func (t *Target) Commit(ctx context.Context) error {
	if err := t.ready(ctx, "commit", 0, 0); err != nil {
		return err
	}
	if t.closed.Swap(true) {
		return t.d.explain("commit", errClosed)
	}
	// Where the connection was lost since the last write, a new one proves at least that the file can be opened.
	l, handle, err := t.d.c.current(ctx)
	if err != nil {
		return t.d.fault(ctx, "commit", nil, 0, err)
	}
	if err := t.d.shut(ctx, l, handle); err != nil {
		return cause(ctx, err)
	}
	return nil
}

// Close ends the session as [Conn.Close] does. What was written without a Commit stays on the disk.
func (t *Target) Close() error {
	t.closed.Store(true)
	return t.d.Close()
}

// touched remembers roughly what was written: a bit for each MiB.
type touched struct {
	mu   sync.Mutex
	bits map[int64]uint64
}

const touchedUnit = 1 << 20

func (t *touched) add(off, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bits == nil {
		t.bits = map[int64]uint64{}
	}
	for i := off / touchedUnit; i*touchedUnit < off+n; i++ {
		t.bits[i/64] |= 1 << (i % 64)
	}
}

func (t *touched) any(off, n int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := off / touchedUnit; i*touchedUnit < off+n; i++ {
		if t.bits[i/64]>>(i%64)&1 == 1 {
			return true
		}
	}
	return false
}
