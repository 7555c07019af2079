package pipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"time"
)

// RetryOptions change how [Retry] works. Nil and zero fields are good defaults.
type RetryOptions struct {
	// Tries is how often one ReadAt is tried in all. Zero: 4.
	Tries int
	// Wait is the pause before the second try; it doubles each time up to MaxWait, and is spread by up to a half so
	// that many readers do not come back at once. Zero: 100 ms and 5 s.
	Wait, MaxWait time.Duration
	// Worth reports whether another try may help. Nil: [WorthRetry].
	Worth func(error) bool
}

// WorthRetry reports whether a read that failed with err may succeed when tried again. It may not after the end of a
// context or of the image, and where the image is closed, gone, forbidden or was asked for the impossible.
func WorthRetry(err error) bool {
	for _, final := range []error{
		context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, errors.ErrUnsupported,
		fs.ErrClosed, fs.ErrNotExist, fs.ErrPermission, fs.ErrInvalid,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// Retry returns an image that tries failed reads again, from the first byte that is missing. The error of the last try
// is returned, with the number of tries.
func Retry(img Image, opts *RetryOptions) Image {
	r := &retried{Image: img}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Tries <= 0 {
		r.opts.Tries = 4
	}
	if r.opts.Wait <= 0 {
		r.opts.Wait = 100 * time.Millisecond
	}
	if r.opts.MaxWait <= 0 {
		r.opts.MaxWait = 5 * time.Second
	}
	if r.opts.Worth == nil {
		r.opts.Worth = WorthRetry
	}
	return r
}

type retried struct {
	Image
	opts RetryOptions
}

func (r *retried) Unwrap() Image { return r.Image }

func (r *retried) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	done, wait := 0, r.opts.Wait
	for try := 1; ; try++ {
		n, err := r.Image.ReadAt(ctx, p[done:], off+int64(done))
		if n < 0 || n > len(p)-done {
			return done, fmt.Errorf("%w: the image returned %d of %d bytes", ErrBroken, n, len(p)-done)
		}
		if n < len(p)-done || err == nil { // all of it and an error: nothing of it can be trusted
			done += n
		}
		if err == nil || ctx.Err() != nil || !r.opts.Worth(err) {
			return done, err
		}
		if try >= r.opts.Tries {
			if try > 1 {
				err = fmt.Errorf("%w (tried %d times)", err, try)
			}
			return done, err
		}
		if err := pause(ctx, wait); err != nil {
			return done, err
		}
		wait = min(2*wait, r.opts.MaxWait)
	}
}

// pause waits for d, up to a half less, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d - rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
