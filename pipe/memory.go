package pipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
)

// memoryPage is the grain in which a Memory keeps data: pages that were never written take no memory.
const memoryPage = 64 << 10

// Memory is a sparse disk in memory: an image once it is sealed, a target before. It is for tests and for small disks
// that are made on the fly. Create one by [NewMemory].
//
// As a target it is an [ExtentTarget] without a base. As an image it is an [ExtentImage] that is exact to its pages of
// 64 KiB. Reading while it is still written to is allowed and sees what was written so far.
type Memory struct {
	size   int64
	mu     sync.RWMutex
	pages  map[int64][]byte
	sealed bool
}

// NewMemory returns a disk of size bytes, all zero.
func NewMemory(size int64) *Memory { return &Memory{size: size, pages: map[int64][]byte{}} }

var errSealed = fmt.Errorf("the disk is sealed: %w", fs.ErrClosed)

// Size is the length of the disk in bytes.
func (m *Memory) Size() int64 { return m.size }

// ReadAt is as [Image] has it.
func (m *Memory) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	n := max(0, min(int64(len(p)), m.size-off))
	m.mu.RLock()
	defer m.mu.RUnlock()
	for done := int64(0); done < n; {
		page, in := (off+done)/memoryPage, (off+done)%memoryPage
		step := min(n-done, memoryPage-in)
		if data, ok := m.pages[page]; ok {
			copy(p[done:done+step], data[in:])
		} else {
			clear(p[done : done+step])
		}
		done += step
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// Extents yields Data for pages that hold any byte, Zero for the others.
func (m *Memory) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 || n > m.size-off {
			yield(Extent{}, fmt.Errorf("extents of [%d, %d) of %d: %w", off, off+n, m.size, fs.ErrInvalid))
			return
		}
		end := off + n
		for _, data := range append(m.runs(off, end), Extent{Off: end}) {
			for _, e := range [2]Extent{{off, data.Off - off, Zero}, data} {
				if err := ctx.Err(); err != nil {
					yield(Extent{}, err)
					return
				}
				if e.Len > 0 && !yield(e, nil) {
					return
				}
			}
			off = data.End()
		}
	}
}

// runs are the pages with data in [off, end), in order, joined and clipped.
func (m *Memory) runs(off, end int64) []Extent {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Extent
	for page := range m.pages {
		from, to := max(off, page*memoryPage), min(end, (page+1)*memoryPage)
		if from < to {
			list = append(list, Extent{from, to - from, Data})
		}
	}
	return mergeExtents(list)
}

// WriteAt is as [Target] has it.
func (m *Memory) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := m.writable(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealed {
		return 0, errSealed
	}
	for done := 0; done < len(p); {
		page, in := (off+int64(done))/memoryPage, (off+int64(done))%memoryPage
		data, ok := m.pages[page]
		if !ok {
			data = make([]byte, min(memoryPage, m.size-page*memoryPage))
			m.pages[page] = data
		}
		done += copy(data[in:], p[done:])
	}
	return len(p), nil
}

// Mark is as [ExtentTarget] has it: the range reads as zero. There is no base, so Unchanged is [errors.ErrUnsupported].
func (m *Memory) Mark(ctx context.Context, e Extent) error {
	switch {
	case e.Kind == Unchanged:
		return fmt.Errorf("mark %v without a base: %w", e, errors.ErrUnsupported)
	case e.Kind == Data || e.Kind > Unchanged:
		return fmt.Errorf("mark %v: %w", e, fs.ErrInvalid)
	}
	if err := m.writable(ctx, e.Off, e.Len); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealed {
		return errSealed
	}
	for page, data := range m.pages {
		at := page * memoryPage
		from, to := max(0, e.Off-at), min(int64(len(data)), e.End()-at)
		if from == 0 && to == int64(len(data)) {
			delete(m.pages, page)
		} else if from < to {
			clear(data[from:to])
		}
	}
	return nil
}

func (m *Memory) writable(ctx context.Context, off, n int64) error {
	if off < 0 || n < 0 || n > m.size-off {
		return fmt.Errorf("write [%d, %d) of %d: %w", off, off+n, m.size, fs.ErrInvalid)
	}
	return ctx.Err()
}

// Commit seals the disk: it can be read, and no more written.
func (m *Memory) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = true
	return nil
}

// Close ends writing, as Commit does. What was written can still be read; the memory goes with the last reference.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = true
	return nil
}
