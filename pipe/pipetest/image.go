package pipetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/hikae/hikae/pipe"
)

// TestImage holds img to the contract of pipe.Image, and of pipe.ExtentImage where it has that ability. want is what it
// must hold; see [Bytes]. It does not close img.
func TestImage(t testing.TB, img, want pipe.Image) {
	t.Helper()
	if err := CheckImage(t.Context(), img, want); err != nil {
		t.Fatal(err)
	}
}

// chunk is how much CheckImage reads at once.
const chunk = 1 << 20

// CheckImage is [TestImage] as an error: the first thing that img does wrong.
func CheckImage(ctx context.Context, img, want pipe.Image) error {
	if img.Size() != want.Size() {
		return fmt.Errorf("size is %d, want %d", img.Size(), want.Size())
	}
	for _, check := range []func(context.Context, pipe.Image, pipe.Image) error{
		checkWhole, checkEdges, checkConcurrent, checkCancelled, checkExtents,
	} {
		if err := check(ctx, img, want); err != nil {
			return err
		}
	}
	return nil
}

func checkWhole(ctx context.Context, img, want pipe.Image) error {
	for off := int64(0); off < img.Size(); off += chunk {
		if err := checkRange(ctx, img, want, off, min(chunk, img.Size()-off)); err != nil {
			return err
		}
	}
	return nil
}

// checkRange reads a range inside the disk and compares.
func checkRange(ctx context.Context, img, want pipe.Image, off, n int64) error {
	got, exp := make([]byte, n), make([]byte, n)
	for i := range got {
		got[i] = 0xa5 // so that zeros have to be written
	}
	if m, err := want.ReadAt(ctx, exp, off); int64(m) != n {
		return fmt.Errorf("the image to compare with: read [%d, %d): %d, %w", off, off+n, m, err)
	}
	m, err := img.ReadAt(ctx, got, off)
	if int64(m) != n || (err != nil && !(err == io.EOF && off+n == img.Size())) {
		return fmt.Errorf("read [%d, %d): returned %d bytes, %w", off, off+n, m, orNil(err))
	}
	if !bytes.Equal(got, exp) {
		for i := range got {
			if got[i] != exp[i] {
				return fmt.Errorf("read [%d, %d): byte %d is %#x, want %#x", off, off+n, off+int64(i), got[i], exp[i])
			}
		}
	}
	return nil
}

var errNil = errors.New("no error")

func orNil(err error) error {
	if err == nil {
		return errNil
	}
	return err
}

// checkEdges reads around sectors, blocks and the end of the disk, and beyond it.
func checkEdges(ctx context.Context, img, want pipe.Image) error {
	size := img.Size()
	for _, edge := range []int64{0, 512, 4096, 64 << 10, 256 << 10, 1 << 20, size / 2, size} {
		for _, off := range []int64{edge - 1, edge, edge + 1} {
			for _, n := range []int64{0, 1, 513, 5000} {
				if off >= 0 && off+n <= size {
					if err := checkRange(ctx, img, want, off, n); err != nil {
						return err
					}
				}
			}
		}
	}
	for _, over := range []int64{1, 512, 100_000} {
		off := max(0, size-300)
		p := make([]byte, size-off+over)
		if n, err := img.ReadAt(ctx, p, off); int64(n) != size-off || !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %d bytes over the end: returned %d, %w; want %d and EOF", over, n, orNil(err), size-off)
		}
		if n, err := img.ReadAt(ctx, p, size); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("read at the end: returned %d, %w; want 0 and EOF", n, orNil(err))
		}
	}
	if n, err := img.ReadAt(ctx, make([]byte, 10), -1); n != 0 || err == nil {
		return fmt.Errorf("read at -1: returned %d, %w; want an error", n, orNil(err))
	}
	return nil
}

// checkConcurrent reads at random places from several goroutines.
func checkConcurrent(ctx context.Context, img, want pipe.Image) error {
	size := img.Size()
	if size == 0 {
		return nil
	}
	var group sync.WaitGroup
	errs := make([]error, 4)
	for g := range errs {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 5))
			for range 10 {
				off := r.Int64N(size)
				if errs[g] = checkRange(ctx, img, want, off, min(1+r.Int64N(50_000), size-off)); errs[g] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// checkCancelled: a read with a context that is done either fails with that, or is right; it never lies.
func checkCancelled(ctx context.Context, img, want pipe.Image) error {
	if img.Size() == 0 {
		return nil
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	p := make([]byte, min(img.Size(), 1000))
	n, err := img.ReadAt(done, p, 0)
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("read with a cancelled context: %w; want context.Canceled", err)
	}
	if err == nil && n != len(p) {
		return fmt.Errorf("read with a cancelled context: %d bytes and no error", n)
	}
	return checkRange(ctx, img, want, 0, int64(len(p))) // and the image is as good as before
}

// checkExtents: the sequence is a cover of every range that is asked for, says the same for a part as for the whole,
// and never calls zero what is not.
func checkExtents(ctx context.Context, img, want pipe.Image) error {
	size := img.Size()
	whole, err := collect(ctx, img, 0, size)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 40 {
		off, n := int64(0), size
		if size > 0 && i > 0 {
			off = r.Int64N(size + 1)
			n = r.Int64N(size - off + 1)
		}
		part, err := collect(ctx, img, off, n)
		if err != nil {
			return err
		}
		if err := samePart(whole, part, off, off+n); err != nil {
			return err
		}
	}
	for _, e := range whole {
		if e.Kind != pipe.Zero {
			continue
		}
		if err := readsZero(ctx, want, e); err != nil {
			return err
		}
	}
	if _, ok := pipe.As[pipe.ExtentImage](img); !ok {
		return nil
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, size + 1}, {size, 1}, {0, -1}} {
		if _, err := collect(ctx, img, bad[0], bad[1]); err == nil {
			return fmt.Errorf("extents of [%d, %d) of a disk of %d: no error", bad[0], bad[0]+bad[1], size)
		}
	}
	return nil
}

// collect returns the extents of [off, off+n) with neighbours of one kind joined.
func collect(ctx context.Context, img pipe.Image, off, n int64) ([]pipe.Extent, error) {
	var list cover
	pos := off
	for e, err := range pipe.Extents(ctx, img, off, n) {
		if err != nil {
			return nil, fmt.Errorf("extents of [%d, %d): at %d: %w", off, off+n, pos, err)
		}
		if e.Off != pos || e.Len <= 0 || e.End() > off+n || e.Kind > pipe.Unchanged {
			return nil, fmt.Errorf("extents of [%d, %d): %v (length %d) where %d was next", off, off+n, e, e.Len, pos)
		}
		list.set(e)
		pos = e.End()
	}
	if n > 0 && pos != off+n {
		return nil, fmt.Errorf("extents of [%d, %d) end at %d", off, off+n, pos)
	}
	return list, nil
}

func samePart(whole, part []pipe.Extent, off, end int64) error {
	exp := cover(whole).within(off, end)
	if len(exp) != len(part) {
		return fmt.Errorf("extents of [%d, %d) are %v, as a part of the whole they are %v", off, end, part, exp)
	}
	for i := range exp {
		if exp[i] != part[i] {
			return fmt.Errorf("extents of [%d, %d): %v, as a part of the whole %v", off, end, part[i], exp[i])
		}
	}
	return nil
}

// readsZero looks at all of a short range, and at both ends of a long one.
func readsZero(ctx context.Context, want pipe.Image, e pipe.Extent) error {
	if e.Len > 2*chunk {
		if err := readsZero(ctx, want, pipe.Extent{Off: e.End() - chunk, Len: chunk}); err != nil {
			return err
		}
		e.Len = chunk
	}
	p := make([]byte, e.Len)
	if n, err := want.ReadAt(ctx, p, e.Off); n != len(p) {
		return err
	}
	if len(bytes.Trim(p, "\x00")) > 0 {
		return fmt.Errorf("%v does not read as zero", e)
	}
	return nil
}
