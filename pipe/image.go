package pipe

import (
	"context"
	"io"
	"iter"
)

// Image is the content of one disk at one moment.
//
// It is safe for concurrent use. What ReadAt returns for a range never changes between two calls: an Image is a
// snapshot, a closed file or a restore point, never a disk that somebody writes to.
type Image interface {
	// Size is the length of the disk in bytes. It never changes.
	Size() int64

	// ReadAt fills p from byte off. It returns len(p) and nil, or fewer bytes and an error; at the end of the image
	// that error is io.EOF. Bytes of p beyond n are undefined. The image keeps no reference to p.
	ReadAt(ctx context.Context, p []byte, off int64) (n int, err error)

	// Close releases what the image holds. Reads under way may fail.
	Close() error
}

// ExtentImage is an optional ability of an Image: it knows which parts hold data without reading them.
// Use [Extents] to ask any image, and [As] to find the ability behind wrappers.
type ExtentImage interface {
	Image

	// Extents yields the whole of [off, off+n), ascending and gap-free, clipped to that range; off+n must not
	// exceed Size. Neighbours may be of the same kind. After an error the sequence ends, and what was yielded
	// before it still holds unless the image says otherwise.
	Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error]
}

// Wrapper is an image around an image. [As] follows Unwrap, so a wrapper that does not change which parts hold data
// loses no ability of the image it wraps.
type Wrapper interface{ Unwrap() Image }

// As returns the first image in img's chain of wrappers that has the ability T. A wrapper that must hide an ability
// of what it wraps (because it changes the content) does not implement [Wrapper].
func As[T any](img Image) (T, bool) {
	for img != nil {
		if t, ok := img.(T); ok {
			return t, true
		}
		w, ok := img.(Wrapper)
		if !ok {
			break
		}
		img = w.Unwrap()
	}
	var zero T
	return zero, false
}

// ReaderAt adapts an image to the io world: it reads with ctx.
func ReaderAt(ctx context.Context, img Image) io.ReaderAt { return readerAt{ctx, img} }

type readerAt struct {
	ctx context.Context // an adapter's whole purpose is to carry it
	img Image
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.img.ReadAt(r.ctx, p, off) }

// FromReaderAt adapts an io.ReaderAt of size bytes to an Image. Close closes r where it is an io.Closer.
func FromReaderAt(r io.ReaderAt, size int64) Image { return fromReaderAt{r, size} }

type fromReaderAt struct {
	r    io.ReaderAt
	size int64
}

func (f fromReaderAt) Size() int64 { return f.size }

func (f fromReaderAt) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return f.r.ReadAt(p, off)
}

func (f fromReaderAt) Close() error {
	if c, ok := f.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
