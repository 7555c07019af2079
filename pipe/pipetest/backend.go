package pipetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/zeebo/blake3"
)

// Backend is a pipe.Backend in memory. It does what a repository does, with maps for trees: blocks are found by a keyed
// BLAKE3 of their content, decoded and recomputed before they are kept, and shared by all points; a point is complete
// in itself and appears at its commit. It also refuses what a caller must not do: blocks of zeros, unaligned marks,
// ranges that were forgotten.
type Backend struct {
	blockSize int

	mu     sync.Mutex
	blocks map[pipe.ID]stored
	points []*point
	begun  int
}

// stored is the encoded content of one block.
type stored struct {
	codec pipe.Codec
	data  []byte
	plain int
}

type point struct {
	info  pipe.PointInfo
	disks map[string]*disk
	blobs map[string][]byte
}

// disk is the content of one disk: what its ranges are, and the ids of the blocks in its Data ranges.
type disk struct {
	size  int64
	kinds cover
	ids   map[int64]pipe.ID // by offset
}

// NewBackend returns an empty backend. The block size must be a power of two; zero is 64 KiB.
func NewBackend(blockSize int) *Backend {
	if blockSize == 0 {
		blockSize = 64 << 10
	}
	return &Backend{blockSize: blockSize, blocks: map[pipe.ID]stored{}}
}

// Stored is how many bytes of blocks are kept, encoded.
func (b *Backend) Stored() (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.blocks {
		n += int64(len(s.data))
	}
	return n
}

// Points is as pipe.Backend has it.
func (b *Backend) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		b.mu.Lock()
		points := slices.Clone(b.points)
		b.mu.Unlock()
		for _, p := range points {
			if err := ctx.Err(); err != nil {
				yield(pipe.PointInfo{}, err)
				return
			}
			if (vm == "" || p.info.VM == vm) && !yield(p.info, nil) {
				return
			}
		}
	}
}

func (b *Backend) find(id string) (*point, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.points {
		if p.info.ID == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("point %q: %w", id, fs.ErrNotExist)
}

// Open is as pipe.Backend has it.
func (b *Backend) Open(ctx context.Context, id, key string) (pipe.Image, error) {
	p, err := b.find(id)
	if err != nil {
		return nil, err
	}
	d, ok := p.disks[key]
	if !ok {
		return nil, fmt.Errorf("disk %q of point %s: %w", key, id, fs.ErrNotExist)
	}
	return &backendImage{b: b, d: d}, ctx.Err()
}

// OpenBlob is as pipe.Backend has it.
func (b *Backend) OpenBlob(ctx context.Context, id, name string) (io.ReadCloser, error) {
	p, err := b.find(id)
	if err != nil {
		return nil, err
	}
	data, ok := p.blobs[name]
	if !ok {
		return nil, fmt.Errorf("blob %q of point %s: %w", name, id, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), ctx.Err()
}

// Begin is as pipe.Backend has it.
func (b *Backend) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if vm == "" {
		return nil, fmt.Errorf("a point needs a VM: %w", fs.ErrInvalid)
	}
	w := &pointWriter{b: b, blocks: map[pipe.ID]stored{}, point: &point{disks: map[string]*disk{}, blobs: map[string][]byte{}}}
	if opts != nil {
		w.point.info = pipe.PointInfo{Time: opts.Time, Consistency: opts.Consistency, Facts: maps.Clone(opts.Facts)}
		if opts.Base != "" {
			base, err := b.find(opts.Base)
			if err != nil {
				return nil, fmt.Errorf("base: %w", err)
			}
			w.base = base
		}
	}
	w.point.info.VM = vm
	if w.point.info.Time.IsZero() {
		w.point.info.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun++
	id := blake3.Sum256(fmt.Append(nil, vm, 0, b.begun))
	w.point.info.ID = hex.EncodeToString(id[:16])
	return w, nil
}

// block returns the decoded content of a block, from extra first.
func (b *Backend) block(id pipe.ID, extra map[pipe.ID]stored) ([]byte, error) {
	s, ok := extra[id]
	if !ok {
		b.mu.Lock()
		s, ok = b.blocks[id]
		b.mu.Unlock()
	}
	if !ok {
		return nil, fmt.Errorf("block %v: %w", id, fs.ErrNotExist)
	}
	return pipe.Decode(nil, s.data, s.codec, s.plain)
}

var errDone = fmt.Errorf("committed or closed: %w", fs.ErrClosed)

// pointWriter keeps all it has to itself until Commit.
type pointWriter struct {
	b    *Backend
	base *point

	mu     sync.Mutex
	blocks map[pipe.ID]stored
	point  *point
	open   map[string]bool // started disks, true once committed
	new    int64
	done   bool
}

func (w *pointWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	if size < 0 || key == "" {
		return nil, fmt.Errorf("disk %q of %d bytes: %w", key, size, fs.ErrInvalid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return nil, errDone
	}
	if _, ok := w.open[key]; ok {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrExist)
	}
	if w.open == nil {
		w.open = map[string]bool{}
	}
	w.open[key] = false
	t := &backendTarget{w: w, key: key, disk: &disk{size: size, ids: map[int64]pipe.ID{}}}
	if w.base != nil {
		if d, ok := w.base.disks[key]; ok && d.size == size {
			t.base = d
		}
	}
	return t, ctx.Err()
}

func (w *pointWriter) Blob(ctx context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("blob %q: %w", name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return errDone
	}
	if _, ok := w.point.blobs[name]; ok {
		return fmt.Errorf("blob %q: %w", name, fs.ErrExist)
	}
	w.point.blobs[name] = data
	w.new += int64(len(data))
	return ctx.Err()
}

func (w *pointWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return "", errDone
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	for key, committed := range w.open {
		if !committed {
			return "", fmt.Errorf("disk %q was not committed", key)
		}
	}
	w.done = true
	w.point.info.Tracking = maps.Clone(tracking)
	w.point.info.New = w.new
	w.point.describe()
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	maps.Copy(w.b.blocks, w.blocks)
	w.b.points = append(w.b.points, w.point)
	return w.point.info.ID, nil
}

func (p *point) describe() {
	for _, key := range slices.Sorted(maps.Keys(p.disks)) {
		info := pipe.DiskInfo{Key: key, Size: p.disks[key].size}
		for _, e := range p.disks[key].kinds {
			if e.Kind == pipe.Data {
				info.Data += e.Len
				continue
			}
			if info.Absent == nil {
				info.Absent = map[string]int64{}
			}
			info.Absent[e.Kind.String()] += e.Len
		}
		p.info.Disks = append(p.info.Disks, info)
	}
	for _, name := range slices.Sorted(maps.Keys(p.blobs)) {
		p.info.Blobs = append(p.info.Blobs, pipe.BlobInfo{Name: name, Size: int64(len(p.blobs[name]))})
	}
}

func (w *pointWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.blocks = true, nil
	return nil
}

// backendTarget is a disk of a point that is being written.
type backendTarget struct {
	w    *pointWriter
	key  string
	base *disk
	disk *disk // guarded by w.mu
	done bool
}

func (t *backendTarget) Size() int64    { return t.disk.size }
func (t *backendTarget) BlockSize() int { return t.w.b.blockSize }

var fingerprintKey = blake3.Sum256([]byte("hikae pipetest block id"))

func (t *backendTarget) Fingerprint(p []byte) (id pipe.ID) { return fingerprint(p) }

func fingerprint(p []byte) (id pipe.ID) {
	h, err := blake3.NewKeyed(fingerprintKey[:])
	if err != nil {
		panic("pipetest: " + err.Error()) // only a key of another length fails
	}
	_, _ = h.Write(p)
	h.Sum(id[:0])
	return id
}

func (t *backendTarget) has(id pipe.ID) bool {
	if _, ok := t.w.blocks[id]; ok {
		return true
	}
	t.w.b.mu.Lock()
	defer t.w.b.mu.Unlock()
	_, ok := t.w.b.blocks[id]
	return ok
}

func (t *backendTarget) Missing(ctx context.Context, ids []pipe.ID) ([]bool, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	missing := make([]bool, len(ids))
	for i, id := range ids {
		missing[i] = !t.has(id)
	}
	return missing, nil
}

func (t *backendTarget) usable(ctx context.Context) error {
	if t.done || t.w.done {
		return errDone
	}
	return ctx.Err()
}

// aligned checks that a range is whole blocks inside the disk.
func (t *backendTarget) aligned(off, n int64) error {
	mask := int64(t.w.b.blockSize - 1)
	if off < 0 || n < 0 || n > t.disk.size-off || off&mask != 0 || (n&mask != 0 && off+n != t.disk.size) {
		return fmt.Errorf("[%d, %d) is not whole blocks of a disk of %d: %w", off, off+n, t.disk.size, fs.ErrInvalid)
	}
	return nil
}

func (t *backendTarget) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	want := min(int64(t.w.b.blockSize), t.disk.size-off)
	if err := t.aligned(off, int64(plain)); err != nil || int64(plain) != want {
		return pipe.PutResult{}, errors.Join(fmt.Errorf("a block of %d bytes at %d: %w", plain, off, fs.ErrInvalid), err)
	}
	if data != nil {
		if err := verify(id, plain, codec, data); err != nil {
			return pipe.PutResult{}, err
		}
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.usable(ctx); err != nil {
		return pipe.PutResult{}, err
	}
	var res pipe.PutResult
	switch {
	case t.has(id):
		res.Deduplicated = int64(plain)
	case data == nil:
		return res, pipe.ErrNeedBlock
	default:
		t.w.blocks[id] = stored{codec, bytes.Clone(data), plain}
		res.Stored = int64(len(data))
		t.w.new += res.Stored
	}
	t.disk.kinds.set(pipe.Extent{Off: off, Len: int64(plain), Kind: pipe.Data})
	t.disk.ids[off] = id
	return res, nil
}

func verify(id pipe.ID, plain int, codec pipe.Codec, data []byte) error {
	content, err := pipe.Decode(nil, data, codec, plain)
	if err != nil {
		return fmt.Errorf("%w: %w", pipe.ErrBlockMismatch, err)
	}
	if fingerprint(content) != id {
		return fmt.Errorf("%w: id %v", pipe.ErrBlockMismatch, id)
	}
	if len(bytes.Trim(content, "\x00")) == 0 {
		return fmt.Errorf("a block of zeros is marked, not put: %w", fs.ErrInvalid)
	}
	return nil
}

func (t *backendTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.aligned(e.Off, e.Len); err != nil {
		return err
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.usable(ctx); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Data || e.Kind > pipe.Unchanged:
		return fmt.Errorf("mark %v: %w", e, fs.ErrInvalid)
	case e.Kind == pipe.Unchanged && t.base == nil:
		return fmt.Errorf("mark %v: there is no base: %w", e, errors.ErrUnsupported)
	case e.Kind != pipe.Unchanged:
		t.disk.kinds.set(e)
		return nil
	}
	for _, x := range t.base.kinds.within(e.Off, e.End()) {
		t.disk.kinds.set(x)
		if x.Kind == pipe.Data {
			for off := x.Off; off < x.End(); off += int64(t.w.b.blockSize) {
				t.disk.ids[off] = t.base.ids[off]
			}
		}
	}
	return nil
}

// WriteAt changes the blocks that p touches. What was not written before is zero.
func (t *backendTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > t.disk.size-off {
		return 0, fmt.Errorf("write [%d, %d) of %d: %w", off, off+int64(len(p)), t.disk.size, fs.ErrInvalid)
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.usable(ctx); err != nil {
		return 0, err
	}
	bs := int64(t.w.b.blockSize)
	for done := 0; done < len(p); {
		at := off + int64(done)
		start := at / bs * bs
		content := make([]byte, min(bs, t.disk.size-start))
		if n := int64(len(content)); int64(len(p)-done) < n || at != start {
			if err := t.current(content, start); err != nil {
				return done, err
			}
		}
		done += copy(content[at-start:], p[done:])
		t.place(start, content)
	}
	return len(p), nil
}

func (t *backendTarget) current(p []byte, off int64) error {
	for _, e := range t.disk.kinds.within(off, off+1) {
		if e.Kind == pipe.Data {
			content, err := t.w.b.block(t.disk.ids[off], t.w.blocks)
			copy(p, content)
			return err
		}
	}
	return nil
}

func (t *backendTarget) place(off int64, content []byte) {
	e := pipe.Extent{Off: off, Len: int64(len(content)), Kind: pipe.Zero}
	if len(bytes.Trim(content, "\x00")) > 0 {
		e.Kind = pipe.Data
		id := fingerprint(content)
		if !t.has(id) {
			t.w.blocks[id] = stored{pipe.Plain, content, len(content)}
			t.w.new += e.Len
		}
		t.disk.ids[off] = id
	}
	t.disk.kinds.set(e)
}

func (t *backendTarget) Commit(ctx context.Context) error {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.usable(ctx); err != nil {
		return err
	}
	t.done = true
	pos := int64(0)
	for _, e := range append(slices.Clone(t.disk.kinds), pipe.Extent{Off: t.disk.size}) {
		if e.Off != pos {
			return &pipe.RangeError{Op: "commit", Off: pos, Len: e.Off - pos, Err: errors.New("neither written nor marked")}
		}
		pos = e.End()
	}
	t.w.open[t.key] = true
	t.w.point.disks[t.key] = t.disk
	return nil
}

func (t *backendTarget) Close() error {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.done = true
	return nil
}

// Usage is what the point has added so far.
func (t *backendTarget) Usage() pipe.Usage {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return pipe.Usage{Stored: t.w.new}
}

// backendImage reads a disk of a committed point.
type backendImage struct {
	b *Backend
	d *disk
}

func (i *backendImage) Size() int64  { return i.d.size }
func (i *backendImage) Close() error { return nil }

func (i *backendImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	done := 0
	for _, e := range i.d.kinds.within(off, min(off+int64(len(p)), i.d.size)) {
		part := p[done : done+int(e.Len)]
		if e.Kind != pipe.Data {
			clear(part)
		} else if err := i.readBlocks(part, e.Off); err != nil {
			return done, err
		}
		done += len(part)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readBlocks fills p, all of which is Data, from off.
func (i *backendImage) readBlocks(p []byte, off int64) error {
	for len(p) > 0 {
		start := off &^ int64(i.b.blockSize-1)
		content, err := i.b.block(i.d.ids[start], nil)
		if err != nil {
			return err
		}
		n := copy(p, content[off-start:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (i *backendImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > i.d.size-off {
			yield(pipe.Extent{}, fmt.Errorf("extents of [%d, %d): %w", off, off+n, fs.ErrInvalid))
			return
		}
		for _, e := range i.d.kinds.within(off, off+n) {
			if err := ctx.Err(); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// cover is an ordered list of ranges that do not overlap; neighbours differ in kind.
type cover []pipe.Extent

// set makes a range of one kind, replacing what was there.
func (c *cover) set(e pipe.Extent) {
	if e.Len == 0 {
		return
	}
	first, _ := slices.BinarySearchFunc(*c, e.Off, func(x pipe.Extent, off int64) int { return cmp.Compare(x.End(), off) })
	last := first
	var put []pipe.Extent
	for ; last < len(*c) && (*c)[last].Off <= e.End(); last++ {
		x := (*c)[last]
		if x.Kind == e.Kind { // touches or overlaps: joined
			end := max(e.End(), x.End())
			e.Off = min(e.Off, x.Off)
			e.Len = end - e.Off
			continue
		}
		if x.Off < e.Off {
			put = append(put, pipe.Extent{Off: x.Off, Len: min(x.End(), e.Off) - x.Off, Kind: x.Kind})
		}
		if x.End() > e.End() {
			from := max(x.Off, e.End())
			put = append(put, pipe.Extent{Off: from, Len: x.End() - from, Kind: x.Kind})
		}
	}
	put = append(put, e)
	slices.SortFunc(put, func(a, b pipe.Extent) int { return cmp.Compare(a.Off, b.Off) })
	*c = slices.Replace(*c, first, last, put...)
}

// within returns what lies in [off, end), clipped.
func (c cover) within(off, end int64) []pipe.Extent {
	first, _ := slices.BinarySearchFunc(c, off, func(x pipe.Extent, off int64) int { return cmp.Compare(x.End(), off+1) })
	var out []pipe.Extent
	for _, x := range c[first:] {
		from, to := max(x.Off, off), min(x.End(), end)
		if from >= to {
			break
		}
		out = append(out, pipe.Extent{Off: from, Len: to - from, Kind: x.Kind})
	}
	return out
}
