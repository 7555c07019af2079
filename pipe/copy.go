package pipe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// ErrSizeMismatch is wrapped by [Copy] where target and image are not of the same length.
var ErrSizeMismatch = errors.New("sizes differ")

// CopyOptions change how [Copy] works. Nil and zero fields are good defaults.
type CopyOptions struct {
	// Compression is used for a BlockTarget. Empty: Default.
	Compression Compression
	// Workers is how many blocks are worked on at once. Zero: one for each processor.
	Workers int
	// BufferBytes bounds what is in flight between the stages; it is never less than two blocks or 128 KiB.
	// Zero: 8 MiB for each worker, at least 16 MiB, and what a [Far] target or image asks for. The encoders' own tables
	// come on top, about 1 MiB for each processor.
	BufferBytes int64
	// Progress, if set, is called from one goroutine, at most every 100 ms and once at the end.
	Progress func(Progress)
	// OnReadError decides what happens to a range that the image cannot read: nil fails the copy with the error
	// (the default). Returning nil from it marks exactly that range Bad and goes on; returning an error fails with it.
	// It is asked for ranges of whole 512-byte sectors, one at a time. An image that ends before its size, or whose
	// read returns less than was asked for without a reason, always fails.
	OnReadError func(e Extent, err error) error
}

// What [CopyOptions] leave open.
const (
	bufferBytesEach = 8 << 20 // for each worker
	minBufferBytes  = 16 << 20
	maxWorkers      = 1024
	maxFlight       = 1024
	maxFlightBytes  = 1 << 30
	maxBlockSize    = maxZstd
)

func (o *CopyOptions) withDefaults() (CopyOptions, error) {
	var c CopyOptions
	if o != nil {
		c = *o
	}
	level, err := ParseCompression(string(c.Compression))
	if err != nil {
		return c, err
	}
	c.Compression = level
	if c.Workers < 0 || c.Workers > maxWorkers || c.BufferBytes < 0 {
		return c, fmt.Errorf("copy with %d workers and %d buffer bytes", c.Workers, c.BufferBytes)
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	return c, nil
}

// bufferBytes is what the options leave open, for a target and an image that are as far as flight says.
func (o *CopyOptions) bufferBytes(flight Flight) int64 {
	if o.BufferBytes != 0 {
		return o.BufferBytes
	}
	return max(minBufferBytes, int64(o.Workers)*bufferBytesEach, min(flight.Bytes, maxFlightBytes))
}

// flightOf is how many calls of each kind are under way at a target and an image. Each says what it needs of its own.
func flightOf(target Target, img Image, workers int) Flight {
	var f Flight
	if far, ok := target.(Far); ok {
		f = far.Flight()
	}
	f.Reads = 0
	if far, ok := As[Far](img); ok {
		of := far.Flight()
		f.Reads, f.Bytes = of.Reads, max(f.Bytes, of.Bytes)
	}
	f.Reads = min(max(f.Reads, readerCount), maxFlight)
	f.Asks = min(max(f.Asks, askerCount), maxFlight)
	f.Puts = min(max(f.Puts, minWriters, workers), maxFlight)
	return f
}

// Copy is the one function of Hikae: it makes target hold what img holds. It does not commit the target: the caller
// does, when all is well.
//
// A [BlockTarget] gets whole blocks: fingerprints first, then the content of those that it lacks. An [ExtentTarget]
// gets data and marks with the image's own ranges. Any other target gets the data; it must start as zeros.
//
// Copy fails before it writes anything where the sizes differ ([ErrSizeMismatch]) and where the image has Unchanged
// ranges that the target cannot take. An error anywhere ends the copy at once; Copy returns when its last goroutine has
// ended, with what was done so far in Stats. Errors of a range are a [*RangeError].
func Copy(ctx context.Context, target Target, img Image, opts *CopyOptions) (Stats, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return Stats{}, err
	}
	if target.Size() != img.Size() || img.Size() < 0 {
		return Stats{}, fmt.Errorf("%w: target of %d bytes, image of %d", ErrSizeMismatch, target.Size(), img.Size())
	}
	c, err := newCopier(target, img, o)
	if err != nil {
		return Stats{}, err
	}
	if c.marker == nil {
		if err := refuseUnchanged(ctx, img); err != nil {
			return Stats{}, err
		}
	}
	err = c.run(ctx)
	if ctx.Err() != nil && err != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return c.meters.stats(), err
}

// refuseUnchanged walks all extents, so that a target that cannot take Unchanged is not touched.
func refuseUnchanged(ctx context.Context, img Image) error {
	for e, err := range checkedExtents(ctx, img) {
		if err != nil {
			return err
		}
		if e.Kind == Unchanged {
			return &RangeError{Op: "mark unchanged", Off: e.Off, Len: e.Len,
				Err: fmt.Errorf("the target takes no marks, so it has no base: %w", errors.ErrUnsupported)}
		}
	}
	return nil
}
