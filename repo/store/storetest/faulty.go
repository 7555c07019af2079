package storetest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// ErrInjected is what a fault gives where it is not told otherwise.
var ErrInjected = errors.New("injected fault")

// Op is a method of a store.
type Op string

const (
	Any    Op = ""
	Create Op = "create"
	Read   Op = "read"
	Stat   Op = "stat"
	List   Op = "list"
	Remove Op = "remove"
	Probe  Op = "probe"
	Settle Op = "settle"
	Free   Op = "free"
	Sweep  Op = "sweep"
)

// Mode is how a call goes wrong.
type Mode int

const (
	// Before: the call fails and nothing was done.
	Before Mode = iota
	// After: the call is carried out, and its answer is lost. A listing yields everything and then fails.
	After
	// Middle: half is done, then the call fails. A Create leaves the first half of the object, as a store that breaks
	// its contract does; a read gives half of the bytes; a listing half of the objects.
	Middle
	// Truncated: a listing yields half of the objects, a read half of the bytes, and says that this is all. Other
	// calls are as they should be.
	Truncated
	// Empty: a listing yields nothing, and says that this is all. Other calls are as they should be.
	Empty
	// Slow: the call is as it should be, after Delay.
	Slow
)

// Fault says which calls of a [Faulty] store go wrong and how.
type Fault struct {
	Op     Op            // Any: all of them
	Prefix string        // only names (or listed prefixes) that start so
	N      int           // the Nth such call since the fault was added, counted from 1. Zero: the first
	Sticky bool          // and every such call after it
	Mode   Mode          // how
	Err    error         // nil: ErrInjected
	Delay  time.Duration // before the call; it ends early with the context
}

// Faulty is a store that fails as told. It has every optional ability; what the wrapped store lacks it does as the
// interfaces say for a store without.
type Faulty struct {
	inner store.Store

	mu     sync.Mutex
	faults []*armed
	fired  int
}

type armed struct {
	Fault
	calls int
}

var (
	_ store.Store   = (*Faulty)(nil)
	_ store.Prober  = (*Faulty)(nil)
	_ store.Settler = (*Faulty)(nil)
	_ store.Spacer  = (*Faulty)(nil)
	_ store.Sweeper = (*Faulty)(nil)
)

// NewFaulty wraps a store. Closing it closes st.
func NewFaulty(st store.Store, faults ...Fault) *Faulty {
	f := &Faulty{inner: st}
	f.Add(faults...)
	return f
}

// Add adds faults; each counts from now. Of several that hit a call the first added counts.
func (f *Faulty) Add(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range faults {
		fault.N = max(fault.N, 1)
		if fault.Err == nil {
			fault.Err = ErrInjected
		}
		f.faults = append(f.faults, &armed{Fault: fault})
	}
}

// Heal removes all faults.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Fired is how many calls went wrong so far.
func (f *Faulty) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// sound is a mode in which nothing goes wrong.
const sound Mode = -1

// hit counts a call, waits as told, and says what goes wrong with it.
func (f *Faulty) hit(ctx context.Context, op Op, name string) (Mode, error) {
	fault := f.match(op, name)
	if fault == nil {
		return sound, nil
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Before, ctx.Err()
		}
	}
	err := fault.Err
	if name != "" {
		err = &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return fault.Mode, err
}

func (f *Faulty) match(op Op, name string) (hit *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.faults {
		if a.Op != Any && a.Op != op || !strings.HasPrefix(name, a.Prefix) {
			continue
		}
		a.calls++
		if hit == nil && (a.calls == a.N || a.Sticky && a.calls > a.N) {
			hit = &a.Fault
			f.fired++
		}
	}
	return hit
}

// do carries out a call that is done or not.
func (f *Faulty) do(ctx context.Context, op Op, name string, call func() error) error {
	mode, err := f.hit(ctx, op, name)
	switch mode {
	case Before, Middle:
		return err
	case After:
		_ = call()
		return err
	}
	return call()
}

func (f *Faulty) Create(ctx context.Context, name string, data []byte) error {
	mode, err := f.hit(ctx, Create, name)
	switch mode {
	case Before:
		return err
	case After:
		_ = f.inner.Create(ctx, name, data)
		return err
	case Middle:
		_ = f.inner.Create(ctx, name, data[:len(data)/2])
		return err
	}
	return f.inner.Create(ctx, name, data)
}

func (f *Faulty) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	mode, err := f.hit(ctx, Read, name)
	switch mode {
	case Before:
		return 0, err
	case After: // the bytes came, and cannot be believed
		n, _ := f.inner.ReadAt(ctx, name, p, off)
		return min(n, max(len(p)-1, 0)), err
	case Middle, Truncated:
		n, innerErr := f.inner.ReadAt(ctx, name, p[:len(p)/2], off)
		if mode == Truncated && innerErr == nil {
			err = io.EOF
		} else if innerErr != nil {
			err = innerErr
		}
		return n, err
	}
	return f.inner.ReadAt(ctx, name, p, off)
}

func (f *Faulty) Stat(ctx context.Context, name string) (info store.Info, err error) {
	err = f.do(ctx, Stat, name, func() error {
		info, err = f.inner.Stat(ctx, name)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	return info, nil
}

func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		mode, err := f.hit(ctx, List, prefix)
		if mode == sound || mode == Slow {
			f.inner.List(ctx, prefix)(yield)
			return
		}
		for _, info := range f.part(ctx, prefix, mode) {
			if !yield(info, nil) {
				return
			}
		}
		if mode != Truncated && mode != Empty {
			yield(store.Info{}, err)
		}
	}
}

// part is what a listing that goes wrong yields.
func (f *Faulty) part(ctx context.Context, prefix string, mode Mode) (infos []store.Info) {
	if mode == Before || mode == Empty {
		return nil
	}
	for info, err := range f.inner.List(ctx, prefix) {
		if err != nil {
			break
		}
		infos = append(infos, info)
	}
	if mode == After {
		return infos
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos[:len(infos)/2]
}

func (f *Faulty) Remove(ctx context.Context, name string) error {
	return f.do(ctx, Remove, name, func() error { return f.inner.Remove(ctx, name) })
}

func (f *Faulty) Probe(ctx context.Context) (found store.Abilities, err error) {
	err = f.do(ctx, Probe, "", func() error {
		if p, ok := store.As[store.Prober](f.inner); ok {
			found, err = p.Probe(ctx)
		}
		return err
	})
	return found, err
}

func (f *Faulty) Settle(ctx context.Context, prefix string) error {
	return f.do(ctx, Settle, prefix, func() error {
		if s, ok := store.As[store.Settler](f.inner); ok {
			return s.Settle(ctx, prefix)
		}
		return nil
	})
}

func (f *Faulty) Free(ctx context.Context) (n int64, err error) {
	err = f.do(ctx, Free, "", func() error {
		s, ok := store.As[store.Spacer](f.inner)
		if !ok {
			return errors.ErrUnsupported
		}
		n, err = s.Free(ctx)
		return err
	})
	return n, err
}

func (f *Faulty) Sweep(ctx context.Context, alone bool) (swept store.Swept, err error) {
	err = f.do(ctx, Sweep, "", func() error {
		if s, ok := store.As[store.Sweeper](f.inner); ok {
			swept, err = s.Sweep(ctx, alone)
		}
		return err
	})
	return swept, err
}

func (f *Faulty) Close() error { return f.inner.Close() }

// Unwrap gives the store that does what it should.
func (f *Faulty) Unwrap() store.Store { return f.inner }
