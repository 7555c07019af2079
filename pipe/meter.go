package pipe

import (
	"context"
	"sync/atomic"
	"time"
)

// Meter returns an image that counts what is read from img.
func Meter(img Image) *Metered { return &Metered{Image: img} }

// Metered is an image that counts. See [Meter].
type Metered struct {
	Image
	reads, bytes, failed, busy atomic.Int64
}

// ReadCounts is what a [Metered] image has seen.
type ReadCounts struct {
	Reads  int64         `json:"reads"`
	Bytes  int64         `json:"bytes"`       // that were returned
	Failed int64         `json:"failed"`      // reads that returned an error, the end of the image included
	Busy   time.Duration `json:"nanoseconds"` // in reads, summed over those that ran at once
}

// Unwrap returns the image that is counted.
func (m *Metered) Unwrap() Image { return m.Image }

// Counts returns the counts so far.
func (m *Metered) Counts() ReadCounts {
	return ReadCounts{m.reads.Load(), m.bytes.Load(), m.failed.Load(), time.Duration(m.busy.Load())}
}

// ReadAt reads from the image and counts.
func (m *Metered) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	since := time.Now()
	n, err := m.Image.ReadAt(ctx, p, off)
	m.busy.Add(int64(time.Since(since)))
	m.reads.Add(1)
	m.bytes.Add(int64(n))
	if err != nil {
		m.failed.Add(1)
	}
	return n, err
}
