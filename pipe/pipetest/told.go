package pipetest

import (
	"context"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// WithExtents returns img with the given extents in place of its own. They are told as they are, right or wrong, to who
// asks for the whole disk, and clipped to who asks for a part.
func WithExtents(img pipe.Image, extents ...pipe.Extent) pipe.ExtentImage {
	return &told{Image: img, layout: extents}
}

type told struct {
	pipe.Image
	layout cover
}

func (i *told) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > i.Size()-off {
			yield(pipe.Extent{}, fmt.Errorf("extents of [%d, %d): %w", off, off+n, fs.ErrInvalid))
			return
		}
		list := []pipe.Extent(i.layout)
		if off != 0 || n != i.Size() {
			list = i.layout.within(off, off+n)
		}
		for _, e := range list {
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
