package exclude

import (
	"context"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// Plan is what need not be stored of the disks of a machine. It holds no image, and is safe for concurrent use.
type Plan struct {
	Report Report
	disks  map[string][]*track // by disk, in its order
}

// Image returns img with what the plan says of the disk key: where img itself says Data, its extents are Free, Swap or
// Excluded as the plan has it; what img knows otherwise stays. Reading is untouched. img must be the content that was
// analysed. The image that is returned owns img.
func (p *Plan) Image(key string, img pipe.Image) pipe.Image {
	if len(p.disks[key]) == 0 {
		return img
	}
	return &excluded{img, p.disks[key]}
}

// Extents are what the plan says of [off, off+n) of a disk, ascending and disjoint; what it does not mention is stored.
func (p *Plan) Extents(key string, off, n int64) iter.Seq[pipe.Extent] {
	return func(yield func(pipe.Extent) bool) {
		for c := seek(p.disks[key], off); n > 0 && c.now.Len > 0 && c.now.Off < off+n; c.next() {
			from, to := max(c.now.Off, off), min(c.now.End(), off+n)
			if !yield(pipe.Extent{Off: from, Len: to - from, Kind: c.now.Kind}) {
				return
			}
		}
	}
}

// excluded is an image around an image.
type excluded struct {
	pipe.Image
	tracks []*track
}

func (x *excluded) Unwrap() pipe.Image { return x.Image }

func (x *excluded) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > x.Size()-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		c := seek(x.tracks, off)
		for e, err := range pipe.Extents(ctx, x.Image, off, n) {
			if err != nil || e.Kind != pipe.Data {
				if !yield(e, err) || err != nil {
					return
				}
				continue
			}
			for part := range c.cut(e) {
				if !yield(part, nil) {
					return
				}
			}
		}
	}
}

// cut divides an extent of data by what the cursor, which has not passed it, says of it.
func (c *cursor) cut(e pipe.Extent) iter.Seq[pipe.Extent] {
	return func(yield func(pipe.Extent) bool) {
		for e.Len > 0 {
			for c.now.Len > 0 && c.now.End() <= e.Off {
				c.next()
			}
			part := e
			switch {
			case c.now.Len == 0 || c.now.Off >= e.End():
			case c.now.Off > e.Off:
				part.Len = c.now.Off - e.Off
			default:
				part.Len, part.Kind = min(c.now.End(), e.End())-e.Off, c.now.Kind
			}
			if !yield(part) {
				return
			}
			e.Off, e.Len = e.Off+part.Len, e.Len-part.Len
		}
	}
}
