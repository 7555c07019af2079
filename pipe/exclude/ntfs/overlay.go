package ntfs

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// Bounds of an overlay: the grain in which it keeps changes, and all of them together, in bytes.
const (
	overlayGrain = 4 << 10
	overlayMost  = 24 << 20
)

var errOverlayFull = errors.New("the log changes more than can be kept in memory")

// overlay is a volume with changes in front of it. It is written by one goroutine, and then read by many.
type overlay struct {
	under source
	pages map[int64][]byte
}

func newOverlay(under source) *overlay { return &overlay{under, map[int64][]byte{}} }

// ReadAt implements source.
func (o *overlay) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := o.under.ReadAt(ctx, p, off)
	if err != nil && !errors.Is(err, io.EOF) || len(o.pages) == 0 {
		return n, err
	}
	for done := int64(0); done < int64(n); {
		k, in := (off+done)/overlayGrain, (off+done)%overlayGrain
		step := min(int64(n)-done, overlayGrain-in)
		if page, ok := o.pages[k]; ok {
			copy(p[done:done+step], page[in:])
		}
		done += step
	}
	return n, err
}

// write changes bytes of the volume, in memory.
func (o *overlay) write(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		k, in := off/overlayGrain, off%overlayGrain
		page, ok := o.pages[k]
		if !ok {
			if len(o.pages) >= overlayMost/overlayGrain {
				return errOverlayFull
			}
			page = make([]byte, overlayGrain)
			if _, err := o.under.ReadAt(ctx, page, k*overlayGrain); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			o.pages[k] = page
		}
		n := copy(page[in:], p)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// settle forgets what came out as it lies on the disk, and says how many bytes are left.
func (o *overlay) settle(ctx context.Context) (int64, error) {
	was := make([]byte, overlayGrain)
	var left int64
	for k, page := range o.pages {
		clear(was)
		if _, err := o.under.ReadAt(ctx, was, k*overlayGrain); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if bytes.Equal(was, page) {
			delete(o.pages, k)
			continue
		}
		for i := range page {
			if page[i] != was[i] {
				left++
			}
		}
	}
	return left, nil
}
