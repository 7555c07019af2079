package pipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// sectorSize is the grain to which an unreadable range is narrowed.
const sectorSize = 512

// readFull reads len(p) bytes or says why not, naming the range from the first byte that is missing. It checks every
// answer: an image that ends early or returns less without a reason is an error, never zeros.
func readFull(ctx context.Context, img Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	switch {
	case n == len(p) && (err == nil || err == io.EOF):
		return nil
	case n < 0 || n > len(p):
		return &RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fmt.Errorf("%w: the image returned %d of %d bytes", ErrBroken, n, len(p))}
	case err == nil || errors.Is(err, io.EOF):
		err = fmt.Errorf("the image of %d bytes ends early: %w", img.Size(), io.ErrUnexpectedEOF)
	case n == len(p):
		n = 0 // an error for the whole: nothing of it can be trusted
	}
	return &RangeError{Op: "read", Off: off + int64(n), Len: int64(len(p) - n), Err: err}
}

// reader reads for Copy, by its policy for what cannot be read.
type reader struct {
	img    Image
	policy func(Extent, error) error
	mu     sync.Mutex // the policy is asked one at a time
}

// read fills p from off. Ranges that the policy allows to be bad are zeros in p, and returned in order.
func (r *reader) read(ctx context.Context, p []byte, off int64) (bad []Extent, err error) {
	err = readFull(ctx, r.img, p, off)
	if err == nil || !r.narrows(ctx, err) {
		return nil, err
	}
	var why error
	bad, why, err = r.bisect(ctx, p, off, nil, nil)
	if err != nil || len(bad) == 0 { // none: the second try read it all
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range bad {
		if err := r.policy(e, why); err != nil {
			return nil, &RangeError{Op: "read", Off: e.Off, Len: e.Len, Err: err}
		}
	}
	return bad, nil
}

// narrows reports whether err is one that the policy may allow: not the end of the copy, not a broken promise.
func (r *reader) narrows(ctx context.Context, err error) bool {
	return r.policy != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrBroken)
}

// bisect reads the halves of a range that failed, down to sectors. It appends what is bad to bad, joined, and returns
// the first error seen beside it.
func (r *reader) bisect(ctx context.Context, p []byte, off int64, bad []Extent, why error) ([]Extent, error, error) {
	end := off + int64(len(p))
	mid := (off + int64(len(p))/2) &^ (sectorSize - 1)
	if mid <= off {
		mid = (off/sectorSize + 1) * sectorSize
	}
	for _, half := range [2]struct{ off, end int64 }{{off, min(mid, end)}, {mid, end}} {
		if half.off >= half.end {
			continue
		}
		q := p[half.off-off : half.end-off]
		err := readFull(ctx, r.img, q, half.off)
		switch {
		case err == nil:
			continue
		case !r.narrows(ctx, err):
			return nil, nil, err
		case half.off/sectorSize == (half.end-1)/sectorSize:
			clear(q)
			bad = mergeExtents(append(bad, Extent{half.off, half.end - half.off, Bad}))
			if why == nil {
				why = err
			}
			continue
		}
		if bad, why, err = r.bisect(ctx, q, half.off, bad, why); err != nil {
			return nil, nil, err
		}
	}
	return bad, why, nil
}
