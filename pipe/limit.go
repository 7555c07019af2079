package pipe

import (
	"context"
	"math"

	"golang.org/x/time/rate"
)

// NewLimiter returns a limiter for [Limit] that lets bytesPerSecond pass, with bursts of a tenth of a second and at
// least one read of the pipe. A rate of zero or less has no bound.
func NewLimiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return rate.NewLimiter(rate.Inf, math.MaxInt32)
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(max(bytesPerSecond/10, readBytes), math.MaxInt32)))
}

// Limit returns an image whose reads wait for l, which counts bytes. Several images may share one limiter: the disks of
// a job, or all jobs of a machine. The limiter may be changed while it is in use.
func Limit(img Image, l *rate.Limiter) Image { return &limited{img, l} }

type limited struct {
	Image
	l *rate.Limiter
}

func (i *limited) Unwrap() Image { return i.Image }

func (i *limited) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	want := min(int64(len(p)), i.Size()-off)
	for want > 0 { // in portions, as a wait for more than the burst fails
		n := min(want, int64(max(i.l.Burst(), 1)))
		if err := i.l.WaitN(ctx, int(n)); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, err
		}
		want -= n
	}
	return i.Image.ReadAt(ctx, p, off)
}
