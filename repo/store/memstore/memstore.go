// Package memstore keeps objects in memory, for tests, examples and repositories that need not outlive the process.
//
// Every call is one atomic step, so [Store.Clone] taken at any moment is what a crash at that moment leaves of a store
// that keeps its promises. A store can be made to promise less ([Options]), to try how its user behaves then. For a
// store that breaks its promises see storetest.Faulty.
package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hikae/hikae/repo/store"
)

// Options change what a store promises. Nil and zero fields are good defaults.
type Options struct {
	// Less names the abilities that the store says it lacks; zero: it has them all. Without DurableNames an object is
	// lost by [Store.Crash] until it is settled.
	Less store.Abilities
	// Capacity is how many bytes of content fit. Zero: 1 TiB, which is to say all that memory holds.
	Capacity int64
}

// ErrFull is what Create gives when the capacity is used up. It is syscall.ENOSPC too, as on a disk.
var ErrFull = fmt.Errorf("memory store is full: %w", syscall.ENOSPC)

// Store is a store in memory.
type Store struct {
	opts Options

	mu      sync.RWMutex
	objects map[string]*object
	folders map[string]int // how many objects have the name and a slash before theirs
	used    int64
	closed  bool
}

// object is never changed; Set puts another in its place.
type object struct {
	data    []byte
	settled bool
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Prober  = (*Store)(nil)
	_ store.Settler = (*Store)(nil)
	_ store.Spacer  = (*Store)(nil)
	_ store.Sweeper = (*Store)(nil)
)

// New makes an empty store.
func New(opts *Options) *Store {
	s := &Store{objects: map[string]*object{}, folders: map[string]int{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Capacity <= 0 {
		s.opts.Capacity = 1 << 40
	}
	return s
}

// Create stores a copy of data.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fail("create", name, s.create(ctx, name, data))
}

func (s *Store) create(ctx context.Context, name string, data []byte) error {
	if err := s.check(ctx, store.ValidName(name)); err != nil {
		return err
	}
	if s.objects[name] != nil {
		return fs.ErrExist
	}
	if s.entangled(name) {
		return store.ErrForeign
	}
	if int64(len(data)) > s.opts.Capacity-s.used {
		return ErrFull
	}
	s.put(name, &object{data: bytes.Clone(data), settled: !s.opts.Less.DurableNames})
	return nil
}

func (s *Store) put(name string, o *object) {
	s.objects[name] = o
	s.used += int64(len(o.data))
	for folder := range folders(name) {
		s.folders[folder]++
	}
}

func (s *Store) drop(name string) {
	s.used -= int64(len(s.objects[name].data))
	delete(s.objects, name)
	for folder := range folders(name) {
		if s.folders[folder]--; s.folders[folder] == 0 {
			delete(s.folders, folder)
		}
	}
}

// folders yields a, a/b for a/b/c.
func folders(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i, c := range name {
			if c == '/' && !yield(name[:i]) {
				return
			}
		}
	}
}

// entangled reports whether the name is a folder of an object, or an object is a folder of the name.
func (s *Store) entangled(name string) bool {
	for folder := range folders(name) {
		if s.objects[folder] != nil {
			return true
		}
	}
	return s.folders[name] > 0
}

// ReadAt copies part of an object.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	o, err := s.get(ctx, name, off >= 0)
	if err != nil {
		return 0, fail("read", name, err)
	}
	if off >= int64(len(o.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, o.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Stat returns an object's size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	o, err := s.get(ctx, name, true)
	if err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	return store.Info{Name: name, Size: int64(len(o.data))}, nil
}

func (s *Store) get(ctx context.Context, name string, valid bool) (*object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.check(ctx, valid && store.ValidName(name)); err != nil {
		return nil, err
	}
	o := s.objects[name]
	if o == nil {
		return nil, fs.ErrNotExist
	}
	return o, nil
}

// List yields the objects as they were when the listing began, without what has been removed since.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		names, err := s.names(ctx, prefix)
		if err != nil {
			yield(store.Info{}, fail("list", prefix, err))
			return
		}
		for _, name := range names {
			info, err := s.Stat(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

func (s *Store) names(ctx context.Context, prefix string) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.check(ctx, store.ValidPrefix(prefix)); err != nil {
		return nil, err
	}
	var names []string
	for name := range s.objects {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove removes an object.
func (s *Store) Remove(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(ctx, store.ValidName(name)); err != nil {
		return fail("remove", name, err)
	}
	if s.objects[name] == nil {
		return fail("remove", name, fs.ErrNotExist)
	}
	s.drop(name)
	return nil
}

// Close ends the store; Clone still works.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Probe says what the store was told to promise.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	less := s.opts.Less
	found := store.Abilities{
		ExclusiveCreate: !less.ExclusiveCreate,
		DurableNames:    !less.DurableNames,
		FreshReads:      !less.FreshReads,
	}
	return found, fail("probe", "", s.check(ctx, true))
}

// Settle makes objects survive a Crash.
func (s *Store) Settle(ctx context.Context, prefix string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(ctx, store.ValidPrefix(prefix)); err != nil {
		return fail("settle", prefix, err)
	}
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) {
			s.objects[name] = &object{data: o.data, settled: true}
		}
	}
	return nil
}

// Free is the capacity that is left.
func (s *Store) Free(ctx context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.opts.Capacity - s.used, fail("free", "", s.check(ctx, true))
}

// Sweep has nothing to do: nothing is ever unfinished here.
func (s *Store) Sweep(ctx context.Context, _ bool) (store.Swept, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return store.Swept{}, fail("sweep", "", s.check(ctx, true))
}

// Clone is an independent store, open, with the same objects.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Store{opts: s.opts, objects: maps.Clone(s.objects), folders: maps.Clone(s.folders), used: s.used}
}

// Crash is what a power cut leaves: a clone without the objects whose names are not durable.
func (s *Store) Crash() *Store {
	c := s.Clone()
	for name, o := range c.objects {
		if !o.settled {
			c.drop(name)
		}
	}
	return c
}

// Set puts an object in place whatever is there, as no store does: it plays rot, tampering and restored old copies.
// Nil data removes the object.
func (s *Store) Set(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[name] != nil {
		s.drop(name)
	}
	if data != nil {
		s.put(name, &object{data: bytes.Clone(data), settled: true})
	}
}

// Mend replaces an object that is there: see store.Mender.
func (s *Store) Mend(ctx context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(ctx, store.ValidName(name)); err != nil {
		return fail("mend", name, err)
	}
	if s.objects[name] == nil {
		return fail("mend", name, fs.ErrNotExist)
	}
	s.drop(name)
	s.put(name, &object{data: bytes.Clone(data), settled: !s.opts.Less.DurableNames})
	return nil
}

// check says whether a call with these arguments may start. The caller holds the lock.
func (s *Store) check(ctx context.Context, valid bool) error {
	switch {
	case !valid:
		return fs.ErrInvalid
	case s.closed:
		return fs.ErrClosed
	}
	return ctx.Err()
}

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if name == "" {
		return fmt.Errorf("%s: %w", op, err)
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
