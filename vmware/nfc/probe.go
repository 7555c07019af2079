package nfc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
)

const (
	probeEvery  = 256 // chunks that are called empty, for each that is read
	leastProbes = 4   // of one answer
	mostProbes  = 32
	diskProbes  = 512 // of one disk, about
)

// MistoldError says that a host called empty what is not. It matches [ErrChanged]: nothing that was taken for zeros on its word
// can be trusted.
type MistoldError struct {
	Path string
	Off  int64 // bytes: where something stands
}

func (e *MistoldError) Error() string {
	return fmt.Sprintf("%s: the host says that nothing is allocated at %d, and something stands there", e.Path, e.Off)
}

// Is matches [ErrChanged].
func (e *MistoldError) Is(target error) bool { return target == ErrChanged }

// windowSet are answers that were made sure of, by their start: at most one for each GiB.
type windowSet map[int64]struct{}

// probe reads some of what an answer calls empty: the first chunk, the last, and others at random. Each answer is made sure of
// once. The caller has the turn.
func (d *Disk) probe(ctx context.Context, w *window) (*MistoldError, error) {
	if _, done := d.told.probed[w.start]; done {
		return nil, nil
	}
	for _, i := range w.someEmpty(d.probesEach()) {
		off := w.start + int64(i)*chunk
		at, err := d.firstByte(ctx, off)
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			return &MistoldError{d.path, off + int64(at)}, nil
		}
	}
	if d.told.probed == nil {
		d.told.probed = windowSet{}
	}
	d.told.probed[w.start] = struct{}{}
	return nil, nil
}

// firstByte is where in the chunk at off the first byte stands that is not zero; negative: nowhere.
func (d *Disk) firstByte(ctx context.Context, off int64) (int, error) {
	p := make([]byte, chunk)
	if err := d.c.request(ctx, func(handle uint64) *call { return newRead(handle, p, off) }); err != nil {
		return 0, err
	}
	return slices.IndexFunc(p, func(b byte) bool { return b != 0 }), nil
}

// probesEach is how many probes an answer of this disk may have, so that a large one has not many more than diskProbes of
// all: where it is less than one, that many answers have one by chance.
func (d *Disk) probesEach() int {
	windows := (d.tellable() + mostChunks*chunk - 1) / (mostChunks * chunk)
	share := diskProbes / max(windows, 1)
	if rand.N(max(windows, 1)) < diskProbes%max(windows, 1) {
		share++
	}
	return int(share)
}

// someEmpty chooses at most limit of the chunks that are called empty.
func (w *window) someEmpty(limit int) []int {
	var empty []int
	for i := range w.count {
		if w.bits[i/8]>>(i%8)&1 == 0 {
			empty = append(empty, i)
		}
	}
	n := min(len(empty), limit, max(leastProbes, min(mostProbes, len(empty)/probeEvery)))
	rest := empty
	if n >= 2 { // where a bitmap that is understood wrongly shows first
		last := len(empty) - 1
		empty[1], empty[last] = empty[last], empty[1]
		rest = empty[2:]
	}
	rand.Shuffle(len(rest), func(i, k int) { rest[i], rest[k] = rest[k], rest[i] })
	return empty[:n]
}
