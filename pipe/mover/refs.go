package mover

import (
	"fmt"
	"maps"
	"sync"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// refs are the handles of one kind in one session. Their numbers are never used again, so that a late call for
// something that was closed meets nothing else.
type refs[T any] struct {
	what string
	max  int

	mu   sync.Mutex
	last wire.Ref
	by   map[wire.Ref]T
}

func newRefs[T any](what string, max int) *refs[T] {
	return &refs[T]{what: what, max: max, by: map[wire.Ref]T{}}
}

// add gives v a number.
func (r *refs[T]) add(v T) (wire.Ref, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.by) >= r.max || r.last == 1<<32-1 {
		return 0, &wire.Fail{Code: wire.CodeBusy, Text: fmt.Sprintf("a session has at most %d open %ss", r.max, r.what)}
	}
	r.last++
	r.by[r.last] = v
	return r.last, nil
}

// get is what stands behind a number.
func (r *refs[T]) get(ref wire.Ref) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.by[ref]
	if !ok {
		return v, r.unknown(ref)
	}
	return v, nil
}

// take is get, and the number is gone.
func (r *refs[T]) take(ref wire.Ref) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.by[ref]
	if !ok {
		return v, r.unknown(ref)
	}
	delete(r.by, ref)
	return v, nil
}

func (r *refs[T]) unknown(ref wire.Ref) error {
	return &wire.Fail{Code: wire.CodeClosed, Text: fmt.Sprintf("%s %d is not open", r.what, ref)}
}

// all takes everything.
func (r *refs[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]T, 0, len(r.by))
	for ref, v := range r.by {
		list = append(list, v)
		delete(r.by, ref)
	}
	return list
}

// each is a copy of what is open.
func (r *refs[T]) each() map[wire.Ref]T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.by)
}
