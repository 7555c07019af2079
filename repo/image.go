package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Open opens one disk of a point. The point is pinned by a reader's lease until the image is closed; where the
// repository cannot be written to, or places of a striped set would fall behind by it, reading goes on unpinned, and the
// warning says so. Every byte that the image returns was proven by the strong hash of its block.
func (r *Repository) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	m, err := r.find(ctx, point)
	if err != nil {
		return nil, err
	}
	return r.openOf(ctx, m, disk)
}

// openOf opens and pins one disk of a manifest.
func (r *Repository) openOf(ctx context.Context, m *manifest, disk string) (pipe.Image, error) {
	for i := range m.Disks {
		if m.Disks[i].Key != disk {
			continue
		}
		img, err := r.openDisk(ctx, m.Lease, &m.Disks[i])
		switch {
		case err != nil:
			return nil, err
		case r.writer != nil: // it sees what is where, which increments are built from, and reads nothing
			if err := img.checkPages(ctx); err != nil {
				return nil, err
			}
			return img, nil
		}
		if img.unpin, img.strands, err = r.pin(ctx, m.Point); err != nil {
			return nil, err
		}
		if img.idx, err = r.renew(ctx, img.idx); err != nil {
			return nil, errors.Join(err, img.unpin())
		}
		img.point = m.Point
		return img, nil
	}
	return nil, fmt.Errorf("disk %q of point %s: %w", disk, m.Point, fs.ErrNotExist)
}

// openDisk opens a disk of the point that a lease committed.
func (r *Repository) openDisk(ctx context.Context, lease uint64, d *manifestDisk) (*diskImage, error) {
	x, err := r.indexFor(ctx, lease)
	if err != nil {
		return nil, err
	}
	img := &diskImage{r: r, idx: x, pages: map[pipe.ID]*page{}, unpin: func() error { return nil }}
	img.tree = treeReader{shape: r.shapeOf(d), load: img.loadPage, root: entry(d.Root)}
	return img, nil
}

// checkPages loads the whole tree, without its blocks: a base of which pages are lost is better known before than while
// it is built on.
func (d *diskImage) checkPages(ctx context.Context) error {
	return d.tree.walk(ctx, 0, d.tree.blocks, func(entry, int64, int64) error { return nil })
}

// diskImage is a disk of a restore point as an image.
type diskImage struct {
	r     *Repository
	idx   *index
	tree  treeReader
	unpin func() error
	point id16 // zero: of no concern

	strands string    // why it is read without a lease
	told    sync.Once // that it is: who opens and reads nothing, to see whether a base is there, loses nothing by it

	mu    sync.Mutex
	pages map[pipe.ID]*page // bounded by maxPages
}

// maxPages keeps the tree of 16 GiB in memory, about 3 MiB, or the pages that several readers are in.
const maxPages = 256

var _ pipe.ExtentImage = (*diskImage)(nil)

func (d *diskImage) Size() int64 { return d.tree.size }

func (d *diskImage) Close() error {
	d.mu.Lock()
	unpin := d.unpin
	d.unpin = func() error { return nil }
	d.mu.Unlock()
	return unpin()
}

// tell warns of what is read without a lease.
func (d *diskImage) tell() {
	if d.strands != "" {
		d.told.Do(func() { d.r.warnStrands(d.point, d.strands) })
	}
}

func (d *diskImage) loadPage(ctx context.Context, id pipe.ID, level, entries int) (*page, error) {
	d.mu.Lock()
	p := d.pages[id]
	d.mu.Unlock()
	if p != nil && p.level == level && len(p.entries) == entries {
		return p, nil
	}
	b, err := d.r.content(ctx, d.idx, object.TypePage, id)
	if err != nil {
		return nil, err
	}
	if p, err = decodePage(b, level, entries); err != nil {
		return nil, &ErrCorrupt{Object: "page " + id.String(), Reason: "it is not a page of this tree", Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pages) >= maxPages {
		clear(d.pages)
	}
	d.pages[id] = p
	return p, nil
}

// ReadAt reads whole blocks straight into p where p holds them whole.
func (d *diskImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	if off >= d.tree.size {
		return 0, io.EOF
	}
	d.tell()
	want := p[:min(int64(len(p)), d.tree.size-off)]
	bs := d.tree.blockSize
	end := off + int64(len(want))
	done := 0
	err := d.tree.walk(ctx, off/bs, (end+bs-1)/bs, func(e entry, lo, hi int64) error {
		from, to := max(lo*bs, off), min(hi*bs, end)
		part := want[from-off : to-off]
		if e.kind == lost {
			return &RangeError{Off: from, Len: to - from, Err: errLostPage}
		}
		if e.kind != pipe.Data {
			clear(part)
		} else if err := d.readBlock(ctx, e.id, lo, from-lo*bs, part); err != nil {
			return &RangeError{Off: from, Len: to - from, Err: err}
		}
		done = int(to - off)
		return nil
	})
	if _, damaged := errors.AsType[*ErrCorrupt](err); damaged && d.point != (id16{}) && d.r.forgotten(d.point) {
		err = errors.Join(ErrForgotten, err)
	}
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return done, err
}

func (d *diskImage) readBlock(ctx context.Context, id pipe.ID, block, in int64, part []byte) error {
	plain := min(d.tree.blockSize, d.tree.size-block*d.tree.blockSize)
	loc, ok, err := d.r.seek(ctx, d.idx, id, func(l location) bool { return l.typ == object.TypeBlock && int64(l.plain) == plain })
	if err != nil {
		return err
	}
	if !ok {
		return &ErrCorrupt{Object: "block " + id.String(), Reason: "no pack holds it"}
	}
	if int64(len(part)) == plain {
		return d.r.fetch(ctx, d.idx, id, loc, part)
	}
	buf := d.r.buffer()
	defer d.r.buffers.Put(buf)
	buf.plain = grow(buf.plain, int(plain))
	if err := d.r.fetch(ctx, d.idx, id, loc, buf.plain); err != nil {
		return err
	}
	copy(part, buf.plain[in:])
	return nil
}

// RangeError says which range of a disk could not be read.
type RangeError struct {
	Off, Len int64
	Err      error
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("bytes %d to %d of the disk: %v", e.Off, e.Off+e.Len, e.Err)
}

func (e *RangeError) Unwrap() error { return e.Err }

// Extents says which parts are data, and of what is absent why.
func (d *diskImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > d.tree.size-off {
			yield(pipe.Extent{}, fmt.Errorf("extents of %d bytes at %d: %w", n, off, fs.ErrInvalid))
			return
		}
		d.tell()
		bs := d.tree.blockSize
		var run pipe.Extent
		err := d.tree.walk(ctx, off/bs, (off+n+bs-1)/bs, func(e entry, lo, hi int64) error {
			from, to := max(lo*bs, off), min(hi*bs, off+n)
			if e.kind == lost {
				e.kind = pipe.Bad
			}
			if run.Len > 0 && run.Kind == e.kind {
				run.Len += to - from
				return nil
			}
			if run.Len > 0 && !yield(run, nil) {
				return errStop
			}
			run = pipe.Extent{Off: from, Len: to - from, Kind: e.kind}
			return nil
		})
		switch {
		case errors.Is(err, errStop):
		case err != nil:
			yield(pipe.Extent{}, err)
		case run.Len > 0:
			yield(run, nil)
		}
	}
}

var errStop = errors.New("the caller has seen enough")

// pin is a reader's lease on one point, shared by the images that are open.
type pin struct {
	lease *lease
	users int
}

// A strander is a store of several places on which a write makes those fall behind that are away: mending them costs more than a
// reader's lease is worth.
type strander interface {
	Strands(ctx context.Context) []string // names of places; none: a write costs nobody anything
}

// strands says why a reader should not write; empty: it may.
func (r *Repository) strands(ctx context.Context) string {
	s, ok := store.As[strander](r.st)
	if !ok || r.opts.ReadOnly || r.leased() { // who holds a lease, as a session that reads its base, writes anyway
		return ""
	}
	if names := s.Strands(ctx); len(names) > 0 {
		return fmt.Sprintf("%s would fall behind", strings.Join(names, ", "))
	}
	return ""
}

func (r *Repository) warnStrands(point id16, why string) {
	r.warn(fmt.Sprintf("point %s is read without a lease, so that a prune elsewhere does not wait for it: %s", point, why))
}

// pin takes a reader's lease on a point, and returns what gives it back. Where none can be had, nothing is given back, and where none should be
// taken, strands says why. Errors: ErrForgotten.
func (r *Repository) pin(ctx context.Context, point id16) (unpin func() error, strands string, err error) {
	none := func() error { return nil }
	key := point.String()
	r.pinMu.Lock()
	defer r.pinMu.Unlock()
	p := r.pins[key]
	if r.closed {
		return none, "", nil
	}
	if p == nil {
		if why := r.strands(ctx); why != "" {
			return none, why, nil
		}
		l, err := r.newLease(ctx, accessRead, []id16{point})
		switch {
		case errors.Is(err, ErrForgotten):
			return none, "", err
		case err != nil:
			if !errors.Is(err, ErrReadOnly) {
				r.warn(fmt.Sprintf("point %s is read without a lease: %v", key, err))
			}
			return none, "", nil
		}
		p = &pin{lease: l}
		r.pins[key] = p
	}
	p.users++
	unpin = func() error {
		r.pinMu.Lock()
		defer r.pinMu.Unlock()
		if p.users--; p.users > 0 || r.pins[key] != p {
			return nil
		}
		delete(r.pins, key)
		return p.lease.end(ctx)
	}
	return unpin, "", nil
}

func (r *Repository) unpinAll() error {
	r.pinMu.Lock()
	defer r.pinMu.Unlock()
	r.closed = true
	var err error
	for key, p := range r.pins {
		err = errors.Join(err, p.lease.end(context.Background()))
		delete(r.pins, key)
	}
	return err
}
