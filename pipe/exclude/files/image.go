package files

import (
	"context"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Image is the content of a regular file as a pipe.Image: what the file has as holes, or as allocated and never
// written, is Zero.
func Image(ctx context.Context, f fsys.FileSystem, n fsys.Node) (pipe.ExtentImage, error) {
	attr, err := f.Stat(ctx, n)
	if err != nil {
		return nil, err
	}
	if !attr.Mode.IsRegular() {
		return nil, fs.ErrInvalid
	}
	return &image{fs: f, node: n, size: attr.Size}, nil
}

type image struct {
	fs   fsys.FileSystem
	node fsys.Node
	size int64
}

func (i *image) Size() int64  { return i.size }
func (i *image) Close() error { return nil }

func (i *image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return i.fs.ReadAt(ctx, i.node, p, off)
}

// Extents implements [pipe.ExtentImage].
func (i *image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > i.size-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		end := off + n
		for r, err := range i.fs.Runs(ctx, i.node) {
			if err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			from, to := max(r.File, off), min(r.File+r.Len, end)
			if from >= to {
				if r.File >= end {
					return
				}
				continue
			}
			kind := pipe.Data
			if r.Kind == fsys.Hole || r.Kind == fsys.Unwritten {
				kind = pipe.Zero
			}
			if !yield(pipe.Extent{Off: from, Len: to - from, Kind: kind}, nil) {
				return
			}
		}
	}
}
