package pipe

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// Section returns [off, off+n) of img as an image of its own, such as a partition of a disk. Closing it closes nothing.
// A range outside img is [fs.ErrInvalid].
func Section(img Image, off, n int64) (ExtentImage, error) {
	if off < 0 || n < 0 || n > img.Size()-off {
		return nil, &RangeError{Op: "section", Off: off, Len: n, Err: fmt.Errorf("%w: the image has %d bytes", fs.ErrInvalid, img.Size())}
	}
	return &section{img, off, n}, nil
}

// section is no Wrapper: its content is not that of the image behind it.
type section struct {
	img    Image
	off, n int64
}

func (s *section) Size() int64  { return s.n }
func (s *section) Close() error { return nil }

// Flight is that of the image behind it.
func (s *section) Flight() Flight {
	if far, ok := As[Far](s.img); ok {
		return far.Flight()
	}
	return Flight{}
}

func (s *section) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	if inside := max(0, s.n-off); int64(len(p)) > inside {
		if inside == 0 {
			return 0, io.EOF
		}
		n, err := s.img.ReadAt(ctx, p[:inside], s.off+off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return s.img.ReadAt(ctx, p, s.off+off)
}

func (s *section) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 || n > s.n-off {
			yield(Extent{}, &RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		for e, err := range Extents(ctx, s.img, s.off+off, n) {
			e.Off -= s.off
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
