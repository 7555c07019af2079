package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// member is a store in its seat.
type member struct {
	*peer
	id    string // empty: it is no member of this set
	label string
}

// peer is a store and how it has behaved.
type peer struct {
	st   store.Store
	slow *Options

	calls  atomic.Int32 // that have not come back
	silent atomic.Int64 // until when it is not asked, in nanoseconds since begun
	missed atomic.Int32 // reads in a row that had no answer when others were asked instead
	late   atomic.Int64 // until when nobody waits for it, as silent
}

// maxCalls bounds what piles up at a member that never answers.
const maxCalls = 256

var begun = time.Now()

// ask calls a member, and waits no longer than limit, whether or not the member heeds its context: a call that does not
// come back is left behind, and the member is not asked again for a while. What f writes to must be its own.
func ask[T any](ctx context.Context, m *member, limit time.Duration, f func(context.Context, store.Store) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if m.silent.Load() > int64(time.Since(begun)) || m.calls.Load() >= maxCalls {
		return zero, fmt.Errorf("member %s: %w", m.label, errHung)
	}
	type answer struct {
		v   T
		err error
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	got := make(chan answer, 1)
	m.calls.Add(1)
	go func() {
		defer m.calls.Add(-1)
		v, err := f(within, m.st)
		got <- answer{v, err}
	}()
	select {
	case a := <-got:
		if a.err != nil && ctx.Err() == nil && errors.Is(a.err, context.DeadlineExceeded) {
			m.hush()
			return a.v, fmt.Errorf("member %s: %w", m.label, errHung)
		}
		return a.v, a.err
	case <-within.Done():
		if err := ctx.Err(); err != nil {
			return zero, fmt.Errorf("%w: %w", errAbandoned, err)
		}
		m.hush()
		return zero, fmt.Errorf("member %s: %w: %w", m.label, errHung, errAbandoned)
	}
}

// last is the one call that a silent member gets too.
func (m *member) last(limit time.Duration, f func(store.Store) error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	got := make(chan error, 1)
	go func() { got <- f(m.st) }()
	select {
	case err := <-got:
		return err
	case <-timer.C:
		return errHung
	}
}

// do is ask for calls without a result.
func (m *member) do(ctx context.Context, limit time.Duration, f func(context.Context, store.Store) error) error {
	_, err := ask(ctx, m, limit, func(ctx context.Context, st store.Store) (struct{}, error) {
		return struct{}{}, f(ctx, st)
	})
	return err
}

func (p *peer) hush() { p.silent.Store(int64(time.Since(begun) + p.slow.Silence)) }

// lateAfter is how many reads in a row a member may leave to others before nobody waits for it any more.
const lateAfter = 2

// isLate says whether a read should ask others at once. A store that tries for a while to reach its server has no answer and no
// error by then, so that without this each read of a restore would wait for it again.
func (p *peer) isLate() bool { return p.late.Load() > int64(time.Since(begun)) }

// judge notes how long a read took that got an answer, or none. One good answer is enough to be waited for again.
func (p *peer) judge(took time.Duration, answered bool) {
	switch {
	case answered && took < p.slow.Hedge:
		p.missed.Store(0)
		p.late.Store(0)
	case took >= p.slow.Hedge && p.missed.Add(1) >= lateAfter:
		p.late.Store(int64(time.Since(begun) + p.slow.Silence))
	}
}

func (m *member) create(ctx context.Context, name string, data []byte) error {
	return m.do(ctx, m.slow.patience(m.slow.WriteDeadline, int64(len(data))), func(ctx context.Context, st store.Store) error {
		return st.Create(ctx, name, data)
	})
}

func (m *member) remove(ctx context.Context, name string) error {
	return m.do(ctx, m.slow.WriteDeadline, func(ctx context.Context, st store.Store) error { return st.Remove(ctx, name) })
}

func (m *member) stat(ctx context.Context, name string) (store.Info, error) {
	return ask(ctx, m, m.slow.ReadDeadline, func(ctx context.Context, st store.Store) (store.Info, error) { return st.Stat(ctx, name) })
}

// read reads up to n bytes at off. Fewer with a nil error: the object ends there.
func (m *member) read(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	begin := time.Now()
	b, err := ask(ctx, m, m.slow.patience(m.slow.ReadDeadline, int64(n)), func(ctx context.Context, st store.Store) ([]byte, error) {
		p := make([]byte, n)
		got, err := st.ReadAt(ctx, name, p, off)
		if isEnd(err) {
			err = nil
		}
		return p[:got], err
	})
	m.judge(time.Since(begin), err == nil || errors.Is(err, fs.ErrNotExist))
	return b, err
}

// readAll reads a small object.
func (m *member) readAll(ctx context.Context, name string, max int) ([]byte, error) {
	b, err := m.read(ctx, name, 0, min(max+1, 16<<10))
	if err != nil || len(b) < 16<<10 && len(b) <= max {
		return b, err
	}
	b, err = m.read(ctx, name, 0, max+1)
	if err == nil && len(b) > max {
		err = fmt.Errorf("%s: %w: longer than %d bytes", name, ErrDamaged, max)
	}
	return b, err
}

// maxListed bounds what a member may say that it has: some hundred bytes of memory each.
const maxListed = 1 << 26

// list gathers a whole listing; of one that ends with an error nothing is known.
func (m *member) list(ctx context.Context, prefix string) ([]store.Info, error) {
	return ask(ctx, m, m.slow.ListDeadline, func(ctx context.Context, st store.Store) (infos []store.Info, err error) {
		for info, err := range st.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			if len(infos) == maxListed {
				return nil, fmt.Errorf("%w: it lists more than %d objects", ErrDamaged, maxListed)
			}
			infos = append(infos, info)
		}
		return infos, nil
	})
}
