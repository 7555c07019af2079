package pipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
)

// ErrUnstable says that an image gave two different answers for the same range: somebody writes to it, or its storage
// cannot be trusted. A copy of it is worth nothing.
var ErrUnstable = errors.New("the image changed between two reads")

// CheckOptions change how [Check] works. Nil and zero fields are good defaults.
type CheckOptions struct {
	// Sample is how many reads there are for each one that is made twice and compared. Zero: 64. One: all of them.
	Sample int
}

// Check returns an image that holds img to its promises: reads stay inside the disk, counts and errors are as [Image]
// has them, and a sample of the reads is made twice. Anything else is an error, and a range that reads differently is
// [ErrUnstable].
func Check(img Image, opts *CheckOptions) Image {
	c := &checked{Image: img, sample: 64}
	if opts != nil && opts.Sample > 0 {
		c.sample = int64(opts.Sample)
	}
	return c
}

type checked struct {
	Image
	sample int64
	reads  atomic.Int64
}

func (c *checked) Unwrap() Image { return c.Image }

func (c *checked) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	n, err := c.readAt(ctx, p, off)
	if err != nil || n == 0 || (c.reads.Add(1)-1)%c.sample != 0 {
		return n, err
	}
	again := make([]byte, n)
	m, err := c.readAt(ctx, again, off)
	if err != nil {
		return 0, fmt.Errorf("second read: %w", err)
	}
	if m != n || !bytes.Equal(p[:n], again) {
		diff := differences(p[:n], again, off, 1)
		return 0, &RangeError{Op: "read", Off: diff[0].Off, Len: diff[0].Len, Err: ErrUnstable}
	}
	return n, nil
}

// readAt reads and holds the answer against the contract.
func (c *checked) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := c.Image.ReadAt(ctx, p, off)
	inside := max(0, min(int64(len(p)), c.Size()-off))
	var wrong string
	switch {
	case n < 0 || n > len(p):
		wrong = "an impossible count"
	case int64(n) > inside:
		wrong = "bytes beyond its size"
	case n < len(p) && err == nil:
		wrong = "less than asked for, without an error"
	case int64(n) < inside && err == io.EOF:
		wrong = "its end before its size"
	case inside < int64(len(p)) && int64(n) == inside && !errors.Is(err, io.EOF) && ctx.Err() == nil:
		wrong = fmt.Sprintf("%v at its end in place of EOF", err)
	default:
		if n == len(p) && err == io.EOF {
			err = nil
		}
		return n, err
	}
	return 0, &RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fmt.Errorf("%w: it returned %s (%d)", ErrBroken, wrong, n)}
}
