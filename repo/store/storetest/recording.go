package storetest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// Call is one finished call of a store.
type Call struct {
	Op   Op
	Name string // or the prefix
	Off  int64  // of a read
	Len  int64  // bytes given to Create, bytes that a read gave, objects that a listing yielded
	Err  error
}

func (c Call) String() string {
	s := fmt.Sprintf("%s %s", c.Op, c.Name)
	if c.Op == Read {
		s += fmt.Sprintf(" at %d", c.Off)
	}
	if c.Err != nil {
		return fmt.Sprintf("%s: %v", s, c.Err)
	}
	return fmt.Sprintf("%s: %d", s, c.Len)
}

// Totals are the sums of a [Recording].
type Totals struct {
	Calls        map[Op]int
	Failed       map[Op]int
	CreatedBytes int64
	ReadBytes    int64
}

// Recording is a store that keeps a log of its calls in the order in which they ended. The optional abilities of what
// it wraps are found by [store.As] and not recorded.
type Recording struct {
	inner store.Store
	quiet bool // sums only

	mu     sync.Mutex
	calls  []Call
	totals Totals
}

var _ store.Store = (*Recording)(nil)

// NewRecording wraps a store and remembers every call.
func NewRecording(st store.Store) *Recording { return &Recording{inner: st, totals: newTotals()} }

// NewCounting wraps a store and keeps sums only, so that it takes no memory however long it runs.
func NewCounting(st store.Store) *Recording {
	r := NewRecording(st)
	r.quiet = true
	return r
}

func newTotals() Totals { return Totals{Calls: map[Op]int{}, Failed: map[Op]int{}} }

// Calls is the log so far.
func (r *Recording) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Totals are the sums so far.
func (r *Recording) Totals() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.totals
	t.Calls, t.Failed = cloneCounts(t.Calls), cloneCounts(t.Failed)
	return t
}

// Reset empties the log and the sums.
func (r *Recording) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls, r.totals = nil, newTotals()
}

func cloneCounts(m map[Op]int) map[Op]int {
	c := map[Op]int{}
	for op, n := range m {
		c[op] = n
	}
	return c
}

func (r *Recording) note(c Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.quiet {
		r.calls = append(r.calls, c)
	}
	r.totals.Calls[c.Op]++
	if c.Err != nil {
		r.totals.Failed[c.Op]++
	}
	switch {
	case c.Op == Read:
		r.totals.ReadBytes += c.Len
	case c.Op == Create && c.Err == nil:
		r.totals.CreatedBytes += c.Len
	}
}

func (r *Recording) Create(ctx context.Context, name string, data []byte) error {
	err := r.inner.Create(ctx, name, data)
	r.note(Call{Op: Create, Name: name, Len: int64(len(data)), Err: err})
	return err
}

// ReadAt notes io.EOF too, though it is the ordinary end of an object.
func (r *Recording) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	n, err := r.inner.ReadAt(ctx, name, p, off)
	r.note(Call{Op: Read, Name: name, Off: off, Len: int64(n), Err: err})
	return n, err
}

func (r *Recording) Stat(ctx context.Context, name string) (store.Info, error) {
	info, err := r.inner.Stat(ctx, name)
	r.note(Call{Op: Stat, Name: name, Len: info.Size, Err: err})
	return info, err
}

func (r *Recording) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		call := Call{Op: List, Name: prefix}
		defer func() { r.note(call) }()
		for info, err := range r.inner.List(ctx, prefix) {
			if err != nil {
				call.Err = err
			} else {
				call.Len++
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (r *Recording) Remove(ctx context.Context, name string) error {
	err := r.inner.Remove(ctx, name)
	r.note(Call{Op: Remove, Name: name, Err: err})
	return err
}

func (r *Recording) Close() error { return r.inner.Close() }

// Unwrap gives the store that is recorded.
func (r *Recording) Unwrap() store.Store { return r.inner }
