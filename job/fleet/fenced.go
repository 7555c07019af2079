package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/pipe"
)

// Revoker is what a backend must be able to do so that a late commit is refused: end the session of another process by its number.
// repo.Repository does.
type Revoker interface {
	Revoke(ctx context.Context, lease uint64, why string) error
}

// leased is what such a backend's writers tell. repo's do.
type leased interface{ Lease() uint64 }

// ErrCannotFence says that a backend has sessions that nobody else can end: a worker that was cut off could commit late there.
var ErrCannotFence = errors.New("the backend cannot refuse a late commit")

// Fenced is a backend for one attempt at one task: points that are made through it are marked with the run, and those of an attempt
// that lost its claim do not count.
type Fenced struct {
	pipe.Backend
	w     *Work
	where string
}

// Fence enters a backend for the task: sessions that earlier holders of the claim left open there are ended first, whether or not they
// live. where names the backend the same way on all workers: a repository's id. Errors: ErrCannotFence, queue.ErrLost.
func (w *Work) Fence(ctx context.Context, where string, b pipe.Backend) (*Fenced, error) {
	r, ok := pipe.BackendAs[Revoker](b)
	if !ok {
		return nil, fmt.Errorf("%s: %w", where, ErrCannotFence)
	}
	for _, f := range w.held.Fences() {
		if f.Where != where {
			continue
		}
		if err := r.Revoke(ctx, f.Lease, "its worker lost the task "+w.Key()); err != nil {
			return nil, fmt.Errorf("%s: ending lease %d of the worker before: %w", where, f.Lease, err)
		}
		if err := w.held.Ended(ctx, f); err != nil {
			return nil, err
		}
	}
	return &Fenced{b, w, where}, nil
}

// Unwrap is the backend itself.
func (f *Fenced) Unwrap() pipe.Backend { return f.Backend }

// Point is the point that an earlier attempt of this run made of a VM; ok is false where there is none, and there will be none but
// by this attempt.
func (f *Fenced) Point(ctx context.Context, vm string) (found pipe.PointInfo, ok bool, err error) {
	for p, err := range f.Points(ctx, vm) {
		if err != nil {
			return pipe.PointInfo{}, false, err
		}
		if p.Facts[RunFact] == f.w.Key() {
			found, ok = p, true
		}
	}
	return found, ok, nil
}

// Begin begins a point that is marked with the run. Its lease is noted with the claim before anything is written.
func (f *Fenced) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	o := pipe.PointOptions{}
	if opts != nil {
		o = *opts
	}
	o.Facts = maps.Clone(o.Facts)
	if o.Facts == nil {
		o.Facts = map[string]string{}
	}
	o.Facts[RunFact] = f.w.Key()
	writer, err := f.Backend.Begin(ctx, vm, &o)
	if err != nil {
		return nil, err
	}
	l, ok := writer.(leased)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.where, ErrCannotFence), writer.Close())
	}
	fence := queue.Fence{Where: f.where, Lease: l.Lease()}
	if err := f.w.held.Guard(ctx, fence); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	return &fencedWriter{PointWriter: writer, f: f, fence: fence}, nil
}

// fencedWriter is a point under way.
type fencedWriter struct {
	pipe.PointWriter
	f     *Fenced
	fence queue.Fence
	once  sync.Once
}

// Commit asks first whether the task is still this worker's: that saves a commit that would be refused. What refuses one in spite of
// it is the repository.
func (w *fencedWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	if err := w.f.w.Confirm(ctx); err != nil {
		return "", err
	}
	id, err := w.PointWriter.Commit(ctx, tracking)
	if id != "" {
		w.ended(ctx)
	}
	return id, err
}

// Close ends the session. One that could not be ended stays noted, for the next one to end.
func (w *fencedWriter) Close() error {
	err := w.PointWriter.Close()
	if err == nil {
		w.ended(context.Background())
	}
	return err
}

func (w *fencedWriter) ended(ctx context.Context) {
	w.once.Do(func() { _ = w.f.w.held.Ended(ctx, w.fence) }) // a lease that is over may be revoked once more
}

// Usage is what the backend tells of the writer, as far as it does.
func (w *fencedWriter) Usage() pipe.Usage {
	if a, ok := w.PointWriter.(pipe.Accountant); ok {
		return a.Usage()
	}
	return pipe.Usage{}
}

// Checkpoint keeps an unfinished point where the backend can.
func (w *fencedWriter) Checkpoint(ctx context.Context, opts pipe.CheckpointOptions) (string, error) {
	if c, ok := w.PointWriter.(pipe.Checkpointer); ok {
		return c.Checkpoint(ctx, opts)
	}
	return "", errors.ErrUnsupported
}
