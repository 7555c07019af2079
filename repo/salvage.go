package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// OpenDamaged opens one disk of a point as Open does, but for what is lost: where nobody knows what stood there, because
// a page of the disk's tree is lost, its extents are Bad, so that a copy that is allowed holes need not ask for every sector.
// Reading what is lost is an error, as with Open.
func (r *Repository) OpenDamaged(ctx context.Context, point, disk string) (pipe.Image, error) {
	img, err := r.openDamaged(ctx, point, disk)
	if err != nil {
		return nil, err
	}
	return img, nil
}

func (r *Repository) openDamaged(ctx context.Context, point, disk string) (*diskImage, error) {
	if r.writer != nil {
		return nil, errWriteOnly
	}
	img, err := r.Open(ctx, point, disk)
	if err != nil {
		return nil, err
	}
	d := img.(*diskImage) // Open gives nothing else
	load := d.tree.load
	d.tree.load = func(ctx context.Context, id pipe.ID, level, entries int) (*page, error) {
		p, err := load(ctx, id, level, entries)
		if err != nil && ctx.Err() == nil && isLoss(err) {
			return lostPage(level, entries), nil
		}
		return p, err
	}
	return d, nil
}

// Salvage opens one disk of a point so that what is lost reads as zero, and is counted: see [SalvagedImage.Holes]. All
// else is proven as Open proves it. It is for who has decided that a disk with holes is better than none; Open never gives
// a byte that the point does not have.
func (r *Repository) Salvage(ctx context.Context, point, disk string) (*SalvagedImage, error) {
	img, err := r.openDamaged(ctx, point, disk)
	if err != nil {
		return nil, err
	}
	return &SalvagedImage{img: img}, nil
}

var errLostPage = &ErrCorrupt{Object: "page", Reason: "it is lost, and nobody knows what stood here"}

// SalvagedImage is a disk of which parts may be lost. It is safe for concurrent use.
type SalvagedImage struct {
	img *diskImage

	mu    sync.Mutex
	holes []pipe.Extent // ascending, not touching
}

var _ pipe.ExtentImage = (*SalvagedImage)(nil)

// lost is what a page says that cannot be read: no page that is stored can say it.
const lost = pipe.Kind(0xFF)

func lostPage(level, entries int) *page {
	p := &page{level: level, entries: make([]entry, entries)}
	for i := range p.entries {
		p.entries[i].kind = lost
	}
	return p
}

// isLoss tells what the repository has lost from what merely failed, and may go well the next time.
func isLoss(err error) bool {
	_, corrupt := errors.AsType[*ErrCorrupt](err)
	return corrupt && !isFailure(err)
}

func (s *SalvagedImage) Size() int64  { return s.img.Size() }
func (s *SalvagedImage) Close() error { return s.img.Close() }

// ReadAt gives zeros for what is lost. A failure of the store is an error: another try may give the bytes.
func (s *SalvagedImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	if off >= s.Size() {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), s.Size()-off)]
	bs := s.img.tree.blockSize
	end := off + int64(len(want))
	done := 0
	err := s.img.tree.walk(ctx, off/bs, (end+bs-1)/bs, func(e entry, lo, hi int64) error {
		from, to := max(lo*bs, off), min(hi*bs, end)
		part := want[from-off : to-off]
		if err := s.run(ctx, e, lo, min(hi*bs, s.Size()), from-lo*bs, part); err != nil {
			return &RangeError{Off: from, Len: to - from, Err: err}
		}
		done = int(to - off)
		return nil
	})
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return done, err
}

// run reads a part of what one entry stands for, which ends at byte end of the disk.
func (s *SalvagedImage) run(ctx context.Context, e entry, lo, end, in int64, part []byte) error {
	bs := s.img.tree.blockSize
	switch e.kind {
	case pipe.Data:
	case lost:
		clear(part)
		s.hole(pipe.Extent{Off: lo*bs + in, Len: int64(len(part)), Kind: pipe.Bad})
		return nil
	default:
		clear(part)
		return nil
	}
	err := s.img.readBlock(ctx, e.id, lo, in, part)
	if err == nil || ctx.Err() != nil || !isLoss(err) {
		return err
	}
	clear(part)
	s.hole(pipe.Extent{Off: lo * bs, Len: end - lo*bs, Kind: pipe.Bad}) // blocks are lost whole
	return nil
}

// Extents says what is data, of what is absent why, and of what is lost for want of a page that it is Bad. That a block is
// lost shows when it is read.
func (s *SalvagedImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return s.img.Extents(ctx, off, n)
}

// maxHoles bounds the list of holes; where there are more, the last one ends with the disk.
const maxHoles = 1 << 20

// Holes are the ranges that were found lost in what was read so far, in ascending order. What the backup's own source
// could not read is not among them: it stands in the point.
func (s *SalvagedImage) Holes() []pipe.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.holes)
}

// hole takes note of a range, and joins it with its neighbours.
func (s *SalvagedImage) hole(e pipe.Extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.holes, e.Off, func(h pipe.Extent, off int64) int {
		if h.End() < off {
			return -1
		}
		return 1
	})
	j := i
	for j < len(s.holes) && s.holes[j].Off <= e.End() {
		end := max(e.End(), s.holes[j].End())
		e.Off = min(e.Off, s.holes[j].Off)
		e.Len = end - e.Off
		j++
	}
	s.holes = slices.Replace(s.holes, i, j, e)
	if n := len(s.holes); n > maxHoles {
		last := &s.holes[n-2]
		last.Len = s.Size() - last.Off
		s.holes = s.holes[:n-1]
	}
}
