package fsystest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Filler is what Blank and BlankWith write where nothing is in use.
type Filler byte

// Garbage shows whether anything still reads a range; Zero is what a restore puts there.
const (
	Zero    Filler = 0
	Garbage Filler = 0xAB
)

// Blank does to an image file what leaving out ranges of it does: they read as zero afterwards.
func Blank(img string, ranges []fsys.Range) error { return BlankWith(img, ranges, Zero) }

// BlankWith writes a filler over ranges of an image file. Of a very long range the first and last MiB and a MiB of each
// GiB is written, so that a sparse image stays one.
func BlankWith(img string, ranges []fsys.Range, filler Filler) error {
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	buf := bytes.Repeat([]byte{byte(filler)}, 1<<20)
	for _, r := range ranges {
		for off := r.Off; off < r.End(); {
			n := min(int64(len(buf)), r.End()-off)
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return errors.Join(err, f.Close())
			}
			if off += n; r.Len > 4<<30 && r.End()-off > 2<<30 {
				off += 1 << 30
			}
		}
	}
	return f.Close()
}

// Copy copies an image file block by block; what is zero becomes a hole. It may be mounted: then the copy is what a live
// snapshot without a freeze is, except that a driver that writes at the same time is caught at several moments.
func Copy(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copyData(dst, src), dst.Close())
}

func copyData(dst, src *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(fi.Size()); err != nil {
		return err
	}
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); off < fi.Size(); {
		if data := nextData(src, off); data > off {
			off = min(data, fi.Size())
			continue
		}
		n, err := src.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			return fmt.Errorf("copy at %d: %w", off, err)
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return nil
}

// Image opens an image file as a volume.
func Image(path string) (pipe.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return pipe.FromReaderAt(f, fi.Size()), nil
}

// Counted counts what is read of an image: bounds on work are tests, not hopes.
type Counted struct {
	pipe.Image
	Reads, Bytes atomic.Int64
}

// ReadAt implements [pipe.Image].
func (c *Counted) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	c.Reads.Add(1)
	c.Bytes.Add(int64(len(p)))
	return c.Image.ReadAt(ctx, p, off)
}
