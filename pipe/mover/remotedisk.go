package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// flight is what a copy to a far disk keeps under way: at 100 ms and blocks of 256 KiB that is up to 160 MB/s.
var flight = pipe.Flight{Asks: 4, Puts: 64, Bytes: 64 << 20}

// maxStoredFor bounds what a placement may claim to have stored: frames, trailers and a page of a tree beside the block.
func maxStoredFor(plain int) int64 { return 2*int64(plain) + 1<<20 }

// remoteDisk is one disk of a point on the other side. Its methods are in the types below, so that a disk has just the
// abilities that the far one has.
type remoteDisk struct {
	w      *remoteWriter
	key    string
	size   int64
	number uint16 // in the notes

	ref wire.Ref // written with the writer's gate closed, read by who is inside

	// As they were when the disk was started for the first time.
	started   bool
	blockSize int
	marks     bool

	mu      sync.Mutex
	sealed  bool
	dropped bool
	loose   bool // bytes were written that are not in the notes
	encoder *pipe.Encoder
}

// start begins the disk in a session, for the first time or again.
func (d *remoteDisk) start(ctx context.Context, e *epoch, writer wire.Ref) error {
	a, err := openCall(ctx, e, &wire.StartDisk{Writer: writer, Key: d.key, Size: d.size},
		func(a *wire.DiskStarted) wire.Message { return &wire.DropDisk{Disk: a.Disk} })
	if err != nil {
		return err
	}
	bs := int(a.BlockSize)
	if bs < 0 || bs > wire.MaxContent || bs&(bs-1) != 0 || bs > 0 && !a.Marks {
		return malformed("disk %q takes blocks of %d bytes, and marks: %v", d.key, bs, a.Marks)
	}
	if d.started && (bs != d.blockSize || a.Marks != d.marks) {
		return fmt.Errorf("%w: disk %q takes blocks of %d bytes now", ErrLostContent, d.key, bs)
	}
	d.ref = a.Disk
	if !d.started { // nobody else has the disk yet
		d.blockSize, d.marks, d.started = bs, a.Marks, true
	}
	return nil
}

func (d *remoteDisk) state() (sealed, dropped bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sealed, d.dropped
}

// lacks reports whether the notes do not have all that the disk needs.
func (d *remoteDisk) lacks() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loose && !d.dropped
}

// target is the disk with its abilities.
func (d *remoteDisk) target() pipe.Target {
	plain := farTarget{d}
	switch {
	case d.blockSize > 0:
		return &farBlocks{farMarks{plain}}
	case d.marks:
		return &farMarks{plain}
	}
	return &plain
}

// farTarget takes bytes only.
type farTarget struct{ d *remoteDisk }

// farMarks takes marks as well.
type farMarks struct{ farTarget }

// farBlocks is a disk that deduplicates.
type farBlocks struct{ farMarks }

type farDisk interface {
	pipe.Target
	pipe.Far
	pipe.Accountant
	pipe.Lined
}

var (
	_ farDisk = (*farTarget)(nil)
	_ interface {
		farDisk
		pipe.ExtentTarget
	} = (*farMarks)(nil)
	_ interface {
		farDisk
		pipe.BlockTarget
	} = (*farBlocks)(nil)
)

// do is the writer's, for a disk that is open.
func (d *remoteDisk) do(ctx context.Context, op func(e *epoch) error) error {
	if sealed, dropped := d.state(); sealed || dropped {
		return fmt.Errorf("disk %q: %w", d.key, fs.ErrClosed)
	}
	return d.w.do(ctx, op)
}

func (t *farTarget) Size() int64         { return t.d.size }
func (t *farTarget) Flight() pipe.Flight { return flight }
func (t *farTarget) Usage() pipe.Usage   { return t.d.w.Usage() }
func (t *farTarget) Line() time.Duration { return t.d.w.c.sending() }

// WriteAt is as pipe.Target has it. What was written this way is not in the notes: after a lost session the point has
// to be written anew.
func (t *farTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	d := t.d
	if off < 0 || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("disk %q: write of %d bytes at %d: %w", d.key, len(p), off, fs.ErrInvalid)
	}
	enc, err := d.encoderOnce()
	if err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) || len(p) == 0 {
		part := p[done:min(len(p), done+wire.MaxContent)]
		data, codec := enc.Encode(nil, part)
		err := d.do(ctx, func(e *epoch) error {
			d.mu.Lock()
			d.loose = d.loose || len(part) > 0
			d.mu.Unlock()
			req := &wire.Write{Disk: d.ref, Off: off + int64(done), Sum: blake3.Sum256(part), Plain: uint32(len(part)), Codec: codec, Data: data}
			_, err := call[*wire.OK](ctx, e, req)
			return err
		})
		if err != nil {
			return done, err
		}
		if done += len(part); done == len(p) {
			break
		}
	}
	return len(p), nil
}

func (d *remoteDisk) encoderOnce() (*pipe.Encoder, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.encoder == nil {
		var err error
		if d.encoder, err = pipe.NewEncoder(pipe.Default, wire.MaxContent); err != nil {
			return nil, err
		}
	}
	return d.encoder, nil
}

// Commit is as pipe.Target has it.
func (t *farTarget) Commit(ctx context.Context) error {
	d := t.d
	err := d.do(ctx, func(e *epoch) error {
		if _, err := call[*wire.OK](ctx, e, &wire.SealDisk{Disk: d.ref}); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.sealed = true
		d.w.progress.Store(true)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		_ = t.Close() // it is as after Close
	}
	return err
}

// Close is as pipe.Target has it.
func (t *farTarget) Close() error {
	d := t.d
	d.mu.Lock()
	done := d.sealed || d.dropped
	d.dropped = !d.sealed // a Close behind Commit abandons nothing: what is sealed is still put back
	d.mu.Unlock()
	if done || d.w.usable() != nil {
		return nil
	}
	d.w.c.afterwards(closeWait, d.drop)
	return nil
}

// drop tells the other side, in the session that knows the disk.
func (d *remoteDisk) drop(ctx context.Context) {
	if d.w.gate.Acquire(ctx, 1) != nil {
		return
	}
	defer d.w.gate.Release(1)
	if e := d.w.in; e != nil && d.w.ref != 0 && !e.gone.Load() {
		_, _ = call[*wire.OK](ctx, e, &wire.DropDisk{Disk: d.ref})
	}
}

// Mark is as pipe.ExtentTarget has it.
func (t *farMarks) Mark(ctx context.Context, x pipe.Extent) error {
	d := t.d
	if x.Off < 0 || x.Len < 0 || x.Len > d.size-x.Off || x.Kind == pipe.Data || x.Kind > pipe.Unchanged {
		return fmt.Errorf("disk %q: mark %v: %w", d.key, x, fs.ErrInvalid)
	}
	return d.do(ctx, func(e *epoch) error {
		if _, err := call[*wire.OK](ctx, e, &wire.Mark{Disk: d.ref, Extent: x}); err != nil {
			return err
		}
		if x.Len > 0 {
			d.w.noted(d.w.notes.add(note{disk: d.number, extent: x}))
		}
		return nil
	})
}

// BlockSize is as pipe.BlockTarget has it.
func (t *farBlocks) BlockSize() int { return t.d.blockSize }

// Fingerprint is the keyed BLAKE3 of a block under the key that the mover gave this side.
func (t *farBlocks) Fingerprint(p []byte) (id pipe.ID) {
	h := t.d.w.hasher.Clone()
	_, _ = h.Write(p)
	_, _ = h.Digest().Read(id[:])
	return id
}

// Missing is as pipe.BlockTarget has it.
func (t *farBlocks) Missing(ctx context.Context, ids []pipe.ID) ([]bool, error) {
	out := make([]bool, 0, len(ids))
	for part := range slices.Chunk(ids, wire.MaxIDs) {
		err := t.d.do(ctx, func(e *epoch) error {
			known, err := t.d.query(ctx, e, part)
			if err != nil {
				return err
			}
			for _, k := range known {
				out = append(out, !k)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// query asks which blocks are known, at most [wire.MaxIDs].
func (d *remoteDisk) query(ctx context.Context, e *epoch, ids []pipe.ID) ([]bool, error) {
	a, err := call[*wire.Known](ctx, e, &wire.Query{Disk: d.ref, IDs: ids})
	if err != nil {
		return nil, err
	}
	if len(a.Bits) != (len(ids)+7)/8 {
		return nil, malformed("%d bytes of answers to %d ids", len(a.Bits), len(ids))
	}
	if tail := len(ids) % 8; tail > 0 && a.Bits[len(a.Bits)-1]<<tail != 0 {
		return nil, malformed("more answers than the %d ids", len(ids))
	}
	known := make([]bool, len(ids))
	for i := range known {
		known[i] = a.Bits[i/8]<<(i%8)&0x80 != 0
	}
	return known, nil
}

// PutBlock is as pipe.BlockTarget has it. It returns when the other side has placed the block; the content is kept
// until it is durable there, and while too much is kept PutBlock waits.
func (t *farBlocks) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	d := t.d
	if err := d.checkBlock(off, plain, data); err != nil {
		return pipe.PutResult{}, err
	}
	var content *kept
	if data != nil {
		var err error
		if content, err = d.keep(ctx, id, codec, data); err != nil {
			return pipe.PutResult{}, err
		}
	}
	var res pipe.PutResult
	err := d.do(ctx, func(e *epoch) error {
		call, placed, err := d.put(ctx, e, off, id, plain, content)
		for try := 1; try < putTries && errors.Is(err, pipe.ErrBlockMismatch) && t.holds(content, id, plain); try++ {
			call, placed, err = d.put(ctx, e, off, id, plain, content)
		}
		if err != nil {
			return err
		}
		res = placed
		d.w.progress.Store(true)
		d.w.noted(d.w.notes.add(note{disk: d.number, extent: pipe.Extent{Off: off, Len: int64(plain), Kind: pipe.Data}, id: id}))
		if content != nil {
			d.w.kept.placed(content, e, call)
		}
		return nil
	})
	if err != nil {
		if content != nil {
			d.w.kept.failed(content)
		}
		return pipe.PutResult{}, err
	}
	d.w.mu.Lock()
	d.w.stored += res.Stored
	d.w.mu.Unlock()
	return res, nil
}

// putTries is how often a block is sent whose content the other side finds changed while it is right here: a bit that
// turned over in some memory on the way.
const putTries = 3

// holds reports whether content still is what id names.
func (t *farBlocks) holds(content *kept, id pipe.ID, plain int) bool {
	if content == nil {
		return false
	}
	p, err := pipe.Decode(nil, content.data, content.codec, plain)
	return err == nil && t.Fingerprint(p) == id
}

func (d *remoteDisk) checkBlock(off int64, plain int, data []byte) error {
	bs := int64(d.blockSize)
	if off < 0 || off >= d.size || off%bs != 0 || int64(plain) != min(bs, d.size-off) || len(data) > wire.MaxStored {
		return fmt.Errorf("disk %q: no block of %d bytes at %d: %w", d.key, plain, off, fs.ErrInvalid)
	}
	return nil
}

func (d *remoteDisk) keep(ctx context.Context, id pipe.ID, codec pipe.Codec, data []byte) (*kept, error) {
	content, unkept, err := d.w.kept.keep(ctx, &d.w.c.settings, id, codec, data)
	if unkept > 0 {
		d.w.c.count(func(s *Stats) { s.Unkept += unkept })
	}
	return content, err
}

// put makes the call that places a block, with content or without.
func (d *remoteDisk) put(ctx context.Context, e *epoch, off int64, id pipe.ID, plain int, content *kept) (uint64, pipe.PutResult, error) {
	req := &wire.Put{Disk: d.ref, Off: off, ID: id, Plain: uint32(plain)}
	if content != nil {
		req.Content, req.Codec, req.Data = true, content.codec, content.data
	}
	n, a, err := callNumbered[*wire.Placed](ctx, e, req)
	if err != nil {
		return n, pipe.PutResult{}, err
	}
	if a.Deduplicated < 0 || a.Deduplicated > int64(plain) || a.Stored < 0 || a.Stored > maxStoredFor(plain) {
		return n, pipe.PutResult{}, malformed("a block of %d bytes: %d were there and %d were stored", plain, a.Deduplicated, a.Stored)
	}
	return n, pipe.PutResult{Deduplicated: a.Deduplicated, Stored: a.Stored}, nil
}
