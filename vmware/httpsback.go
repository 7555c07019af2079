package vmware

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/hikae/hikae/pipe"
)

const (
	backBytes    = openBytes
	backWritten  = 16 // pieces where something was written
	backAnywhere = 4
)

// NotKeptError says that a server took a file that was put there and has something else in its place.
type NotKeptError struct {
	File string
	Off  int64 // bytes: where the first difference was seen
}

func (e *NotKeptError) Error() string {
	return fmt.Sprintf("%s: what stands at %d is not what was sent", e.File, e.Off)
}

// lookBack compares what the server has with what was sent: the length, the start, the end, and some pieces by chance, most of
// them where something was written, because zeros are what stands there otherwise.
func (t *httpsTarget) lookBack(ctx context.Context) error {
	f := &httpsFile{getter: t.getter, name: t.name, url: t.url, size: -1}
	head, err := t.get(ctx, f, 0, backBytes)
	if err != nil {
		return fmt.Errorf("look at what was sent: %w", err)
	}
	if f.size != t.Size() {
		return fmt.Errorf("%s has %d bytes after %d were sent", t.name, f.size, t.Size())
	}
	if err := t.isSent(ctx, head, 0); err != nil {
		return err
	}
	offs, err := t.somewhere(ctx)
	if err != nil {
		return err
	}
	for _, off := range offs {
		got, err := t.get(ctx, f, off, min(backBytes, f.size-off))
		if err != nil {
			return fmt.Errorf("look at what was sent: %w", err)
		}
		if err := t.isSent(ctx, got, off); err != nil {
			return err
		}
	}
	return nil
}

// isSent compares a piece of the server's file with the scratch file.
func (t *httpsTarget) isSent(ctx context.Context, got []byte, off int64) error {
	want := make([]byte, min(backBytes, t.Size()-off))
	if n, err := t.scratch.ReadAt(ctx, want, off); n < len(want) {
		return fmt.Errorf("read what was sent at %d: %w", off, noEOF(err))
	}
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return &NotKeptError{t.name, off + int64(at)}
}

// somewhere chooses where to look, in ascending order; the last place is the end of the file.
func (t *httpsTarget) somewhere(ctx context.Context) ([]int64, error) {
	size := t.Size()
	if size <= backBytes {
		return nil, nil // all of it is the start
	}
	offs := []int64{size - backBytes}
	for range backAnywhere {
		offs = append(offs, rand.N(size-backBytes))
	}
	written, err := t.written(ctx, nil)
	if err != nil {
		return nil, err
	}
	if written > 0 {
		var nth []int64 // bytes of those that were written
		for range backWritten {
			nth = append(nth, rand.N(written))
		}
		slices.Sort(nth)
		if _, err := t.written(ctx, func(e pipe.Extent, before int64) {
			for len(nth) > 0 && nth[0] < before+e.Len {
				offs = append(offs, min(e.Off+nth[0]-before, size-backBytes))
				nth = nth[1:]
			}
		}); err != nil {
			return nil, err
		}
	}
	slices.Sort(offs)
	return slices.Compact(offs), nil
}

// written counts the bytes that were written. each is told of every extent of them, and how many were before it.
func (t *httpsTarget) written(ctx context.Context, each func(e pipe.Extent, before int64)) (n int64, err error) {
	for e, err := range t.scratch.Extents(ctx, 0, t.Size()) {
		if err != nil {
			return 0, err
		}
		if e.Kind != pipe.Data {
			continue
		}
		if each != nil {
			each(e, n)
		}
		n += e.Len
	}
	return n, nil
}
