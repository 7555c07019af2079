package repo

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// diskTarget is one disk of a point that is being written.
type diskTarget struct {
	w     *pointWriter
	key   string
	shape shape
	base  *manifestDisk // the same disk in the base

	mu      sync.Mutex
	tree    *treeWriter
	partial map[int64]*partialBlock // by block: written or marked in part
	bad     [][2]int64
	sealed  *manifestDisk
	closed  bool
	baseImg *diskImage
	encoder *pipe.Encoder
}

var _ interface {
	pipe.BlockTarget
	pipe.Assembler
	pipe.Accountant
	pipe.Overwriter
} = (*diskTarget)(nil)

// partialBlock is a block of which not everything has come yet.
type partialBlock struct {
	data    []byte
	missing []pipe.Extent // ascending
}

// maxPartial bounds the memory for blocks that come in pieces.
const maxPartial = 256

func (d *diskTarget) Size() int64                  { return d.shape.size }
func (d *diskTarget) BlockSize() int               { return int(d.shape.blockSize) }
func (d *diskTarget) Fingerprint(p []byte) pipe.ID { return d.w.r.keys.id(object.TypeBlock, p) }
func (d *diskTarget) Usage() pipe.Usage            { return d.w.Usage() }

func (d *diskTarget) Missing(ctx context.Context, ids []pipe.ID) ([]bool, error) {
	out := make([]bool, len(ids))
	for i, id := range ids {
		ok, err := d.w.s.known(ctx, id)
		if err != nil {
			return nil, err
		}
		out[i] = !ok
	}
	return out, nil
}

func (d *diskTarget) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	block := off / d.shape.blockSize
	if off < 0 || off%d.shape.blockSize != 0 || block >= d.shape.blocks || int64(plain) != d.blockLen(block) {
		return pipe.PutResult{}, fmt.Errorf("disk %q: no block of %d bytes at %d: %w", d.key, plain, off, fs.ErrInvalid)
	}
	if err := d.open(); err != nil {
		return pipe.PutResult{}, err
	}
	if codec > pipe.Zstd {
		return pipe.PutResult{}, fmt.Errorf("disk %q: block at %d: %w: %v", d.key, off, pipe.ErrBlockMismatch, codec)
	}
	res, err := d.w.s.put(ctx, object.TypeBlock, id, plain, codec, data)
	if err != nil {
		return res, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.partial, block)
	random := d.base != nil && codec == pipe.Plain && pipe.LooksRandom(data)
	return res, d.tree.setBlock(ctx, block, entry{kind: pipe.Data, id: id, random: random})
}

// Overwritten implements [pipe.Overwriter].
func (d *diskTarget) Overwritten() (data, random int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tree.overwritten, d.tree.randomized
}

// Assemble stores a block by naming the parts of it that other blocks have: see pipe.Assembler.
func (d *diskTarget) Assemble(ctx context.Context, off int64, id pipe.ID, block []byte) (pipe.PutResult, bool, error) {
	n := off / d.shape.blockSize
	if off < 0 || off%d.shape.blockSize != 0 || n >= d.shape.blocks || int64(len(block)) != d.blockLen(n) {
		return pipe.PutResult{}, false, fmt.Errorf("disk %q: no block of %d bytes at %d: %w", d.key, len(block), off, fs.ErrInvalid)
	}
	if err := d.open(); err != nil {
		return pipe.PutResult{}, false, err
	}
	res, ok, err := d.w.s.assemble(ctx, id, block)
	if err != nil || !ok {
		return res, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.partial, n)
	return res, true, d.tree.setBlock(ctx, n, entry{kind: pipe.Data, id: id})
}

func (d *diskTarget) blockLen(block int64) int64 {
	return min(d.shape.blockSize, d.shape.size-block*d.shape.blockSize)
}

func (d *diskTarget) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.sealed != nil {
		return fmt.Errorf("disk %q: %w", d.key, fs.ErrClosed)
	}
	return nil
}

// WriteAt takes bytes of any alignment: whole blocks are stored at once, the pieces of others wait for the rest.
func (d *diskTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.shape.size-off {
		return 0, fmt.Errorf("disk %q: write of %d bytes at %d: %w", d.key, len(p), off, fs.ErrInvalid)
	}
	if err := d.open(); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		block := at / d.shape.blockSize
		in := at - block*d.shape.blockSize
		piece := p[done:min(len(p), done+int(d.blockLen(block)-in))]
		var err error
		if int64(len(piece)) == d.blockLen(block) {
			err = d.store(ctx, block, piece)
		} else {
			err = d.piece(ctx, block, in, piece)
		}
		if err != nil {
			return done, err
		}
		done += len(piece)
	}
	return len(p), nil
}

// store stores a whole block from plain bytes.
func (d *diskTarget) store(ctx context.Context, block int64, p []byte) error {
	if allZero(p) {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.partial, block)
		return d.tree.mark(ctx, block, block+1, pipe.Zero)
	}
	id := d.Fingerprint(p)
	_, err := d.PutBlock(ctx, block*d.shape.blockSize, id, len(p), pipe.Plain, nil)
	if err == nil || err != pipe.ErrNeedBlock {
		return err
	}
	if _, ok, err := d.Assemble(ctx, block*d.shape.blockSize, id, p); err != nil || ok {
		return err
	}
	enc, err := d.encoderOnce()
	if err != nil {
		return err
	}
	data, codec := enc.Encode(nil, p)
	_, err = d.PutBlock(ctx, block*d.shape.blockSize, id, len(p), codec, data)
	return err
}

func (d *diskTarget) encoderOnce() (*pipe.Encoder, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.encoder == nil {
		var err error
		if d.encoder, err = pipe.NewEncoder(d.w.r.header.Compression, d.BlockSize()); err != nil {
			return nil, err
		}
	}
	return d.encoder, nil
}

func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if string(p[:n]) != string(zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var zeros [64 << 10]byte

// piece takes a part of a block, and stores the block once nothing is missing.
func (d *diskTarget) piece(ctx context.Context, block, in int64, p []byte) error {
	d.mu.Lock()
	b := d.partial[block]
	if b == nil {
		if len(d.partial) >= maxPartial {
			d.mu.Unlock()
			return fmt.Errorf("disk %q: more than %d blocks are written in part; write in order, or by whole blocks", d.key, maxPartial)
		}
		n := d.blockLen(block)
		b = &partialBlock{data: make([]byte, n), missing: []pipe.Extent{{Off: 0, Len: n}}}
		d.partial[block] = b
	}
	copy(b.data[in:], p)
	b.got(in, int64(len(p)))
	whole := len(b.missing) == 0
	if whole {
		delete(d.partial, block)
	}
	d.mu.Unlock()
	if !whole {
		return nil
	}
	return d.store(ctx, block, b.data)
}

func (b *partialBlock) got(off, n int64) {
	var left []pipe.Extent
	for _, m := range b.missing {
		if lo := max(m.Off, off); lo >= min(m.End(), off+n) {
			left = append(left, m)
			continue
		}
		if m.Off < off {
			left = append(left, pipe.Extent{Off: m.Off, Len: off - m.Off})
		}
		if off+n < m.End() {
			left = append(left, pipe.Extent{Off: off + n, Len: m.End() - off - n})
		}
	}
	b.missing = left
}

// Mark settles a range without data. Blocks that it covers in part take zeros, or the base's bytes, for that part.
func (d *diskTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Off < 0 || e.Len < 0 || e.Len > d.shape.size-e.Off || e.Kind == pipe.Data || e.Kind > pipe.Unchanged {
		return fmt.Errorf("disk %q: mark %v: %w", d.key, e, fs.ErrInvalid)
	}
	if e.Kind == pipe.Unchanged && d.base == nil {
		return fmt.Errorf("disk %q: %w", d.key, ErrNoBase)
	}
	if err := d.open(); err != nil {
		return err
	}
	if e.Len == 0 {
		return nil
	}
	if err := d.markBlocks(ctx, e); err != nil {
		return err
	}
	if e.Kind == pipe.Bad {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.bad = append(d.bad, [2]int64{e.Off, e.Len})
	}
	return nil
}

func (d *diskTarget) markBlocks(ctx context.Context, e pipe.Extent) error {
	bs := d.shape.blockSize
	lo, hi := (e.Off+bs-1)/bs, e.End()/bs
	if e.End() == d.shape.size {
		hi = d.shape.blocks
	}
	if lo > hi { // inside one block
		return d.markPiece(ctx, e)
	}
	if head := min(lo*bs, e.End()) - e.Off; head > 0 {
		if err := d.markPiece(ctx, pipe.Extent{Off: e.Off, Len: head, Kind: e.Kind}); err != nil {
			return err
		}
	}
	if tail := e.End() - hi*bs; tail > 0 && hi >= lo {
		if err := d.markPiece(ctx, pipe.Extent{Off: hi * bs, Len: tail, Kind: e.Kind}); err != nil {
			return err
		}
	}
	if lo == hi {
		return nil
	}
	if e.Kind == pipe.Unchanged {
		if err := d.checkBase(ctx, lo, hi); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for block := range d.partial {
		if lo <= block && block < hi {
			delete(d.partial, block)
		}
	}
	if e.Kind == pipe.Unchanged {
		return d.tree.keep(ctx, lo, hi)
	}
	return d.tree.mark(ctx, lo, hi, e.Kind)
}

// checkBase looks whether the repository still has what the base has in blocks [lo, hi), before a new point refers to
// it. What is unchanged is taken over without being read, so this is done only where something is known to be missing.
func (d *diskTarget) checkBase(ctx context.Context, lo, hi int64) error {
	if !d.w.s.idx.doubtful() {
		return nil
	}
	img, err := d.baseImage(ctx)
	if err != nil {
		return err
	}
	return img.tree.walk(ctx, lo, hi, func(e entry, block, _ int64) error {
		if e.kind != pipe.Data {
			return nil
		}
		ok, err := d.standing(ctx, img.idx, e.id)
		if err == nil && !ok {
			err = &ErrCorrupt{Object: "block " + e.id.String(), Reason: fmt.Sprintf("the base has it at byte %d, and no pack holds it", block*d.shape.blockSize)}
		}
		return err
	})
}

// standing reports whether a new point may go on referring to a block of its base. A write-only client sees no pack: the
// committed base vouches for them, but for what the log calls bad.
func (d *diskTarget) standing(ctx context.Context, x *index, id pipe.ID) (bool, error) {
	if d.w.r.writer != nil {
		_, found, good, err := x.best(id, false)
		return good || !found, err
	}
	_, ok, err := d.w.r.reusable(ctx, x, id)
	return ok, err
}

func (d *diskTarget) markPiece(ctx context.Context, e pipe.Extent) error {
	p := make([]byte, e.Len)
	if e.Kind == pipe.Unchanged {
		img, err := d.baseImage(ctx)
		if err != nil {
			return err
		}
		if _, err := img.ReadAt(ctx, p, e.Off); err != nil {
			return fmt.Errorf("base: %w", err)
		}
	}
	block := e.Off / d.shape.blockSize
	return d.piece(ctx, block, e.Off-block*d.shape.blockSize, p)
}

func (d *diskTarget) baseImage(ctx context.Context) (*diskImage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.baseImg == nil {
		img, err := d.w.r.openDisk(ctx, d.w.base.Lease, d.base)
		if err != nil {
			return nil, err
		}
		d.baseImg = img
	}
	return d.baseImg, nil
}

// Commit seals the disk: every byte of it must have been written or marked.
func (d *diskTarget) Commit(ctx context.Context) error {
	if err := d.open(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for block, b := range d.partial {
		return fmt.Errorf("disk %q: %w: nothing was said of byte %d", d.key, ErrIncomplete, block*d.shape.blockSize+b.missing[0].Off)
	}
	root, err := d.tree.finish(ctx)
	if err != nil {
		return fmt.Errorf("disk %q: %w", d.key, err)
	}
	out := &manifestDisk{Key: d.key, Size: d.shape.size, Root: rootEntry(root), Bad: slices.Clone(d.bad)}
	if d.shape.blocks > 0 {
		last, err := treeReader{shape: d.shape, load: d.w.s.loadPage, root: root}.lookup(ctx, d.shape.blocks-1)
		if err != nil {
			return err
		}
		out.Last = last.kind.String()
	}
	d.sealed = out
	return nil
}

// done is the sealed disk, nil before.
func (d *diskTarget) done() *manifestDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sealed
}

// Close abandons a disk that was not committed.
func (d *diskTarget) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	clear(d.partial)
	return nil
}
