package repo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// lease is a session's mark in the log: a writer's says that its packs are not rubbish, a reader's that the points it
// reads must stay. While it lives it shows so by a new object every 20 s; nobody looks at clocks or file times.
type lease struct {
	r      *Repository
	n      uint64
	cancel context.CancelFunc
	done   chan struct{}
	aside  sync.WaitGroup // what goes on beside the session

	mu    sync.Mutex
	beats uint64
}

const (
	beatEvery   = 20 * time.Second
	endDeadline = 30 * time.Second
)

func (r *Repository) newLease(ctx context.Context, access string, points []id16) (*lease, error) {
	return r.newLeaseFor(ctx, access, points, scope{})
}

// newLeaseFor takes a lease for content of another scope than its key's own: who opened a slot writes again what a
// write-only client wrote, and the content keeps its ids.
func (r *Repository) newLeaseFor(ctx context.Context, access string, points []id16, s scope) (*lease, error) {
	key, err := r.signingKey(ctx)
	if err != nil {
		return nil, err
	}
	if access != accessRead && !r.shared {
		r.leaseMu.Lock() // one at a time, so that each sees the others of this process as its own
		defer r.leaseMu.Unlock()
		if err := r.takeOver(ctx, key); err != nil {
			return nil, err
		}
	}
	rec, err := r.log.append(ctx, key, func() (*record, error) {
		if err := r.log.have(points); err != nil {
			return nil, err
		}
		if access == accessPrune {
			if other := r.log.pruner(); other != 0 {
				return nil, &BusyError{Lease: other}
			}
		}
		if access != accessRead && !r.shared {
			if other := r.log.otherWriter(r.writing); other != 0 {
				return nil, fmt.Errorf("the store cannot be shared by writers, and lease %d is open: %w", other, ErrReadOnly)
			}
		}
		rec := &record{Kind: recordLease, Access: access, Points: points}
		if s != (scope{}) {
			rec.For = (*publicKey)(&s)
		}
		return rec, nil
	})
	if err != nil {
		return nil, err
	}
	if r.writer != nil && access == accessWrite {
		r.writer.began(ctx, rec.N)
	}
	beatCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{r: r, n: rec.N, cancel: cancel, done: make(chan struct{})}
	r.setWriting(l.n, true)
	go l.beat(beatCtx)
	if r.shared {
		l.tidyBeside(beatCtx, key)
	}
	return l, nil
}

// takeOver ends the lease of a writer that died on a store that only one may write to: otherwise the first crash would
// close it for ever. Dead is who creates no heartbeat for three times as long as one takes, by our own clock alone. A
// wrong guess costs that writer its point, and nothing else: its commit comes after the record that revokes it.
func (r *Repository) takeOver(ctx context.Context, key ed25519.PrivateKey) error {
	if err := r.log.refresh(ctx); err != nil {
		return err
	}
	var other uint64
	ours := false
	r.log.view(func(l *ledger) {
		if other = l.otherWriter(r.writing); other != 0 {
			ours = l.leases[other].key == publicOf(key)
		}
	})
	if other == 0 || r.writer != nil && !ours { // who may only append cannot end another's lease
		return nil
	}
	before, err := r.beats(ctx, other)
	if err != nil {
		return err
	}
	r.warn(fmt.Sprintf("the store cannot be shared by writers, and lease %d is open: waiting whether it shows a sign of life", other))
	if err := wait(ctx, 3*beatEvery); err != nil {
		return err
	}
	after, err := r.beats(ctx, other)
	if err != nil {
		return err
	}
	for name := range after {
		if !before[name] {
			return fmt.Errorf("the store cannot be shared by writers, and lease %d is in use: %w", other, ErrReadOnly)
		}
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if err := r.log.live(other); err != nil {
			return nil, err
		}
		if r.writer != nil {
			return &record{Kind: recordEnd, Lease: other}, nil
		}
		return &record{Kind: recordRevoke, Lease: other}, nil
	})
	if errors.Is(err, errAppendRefused) || errors.Is(err, ErrRevoked) || errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended meanwhile, or so long ago that only a checkpoint is left
	}
	return err
}

func (r *Repository) beats(ctx context.Context, lease uint64) (map[string]bool, error) {
	found := map[string]bool{}
	for info, err := range r.st.List(ctx, fmt.Sprintf("beat/%016x/", lease)) {
		if err != nil {
			return nil, err
		}
		found[info.Name] = true
	}
	return found, nil
}

// writing reports whether a lease is this process's own and in use.
func (r *Repository) writing(lease uint64) bool {
	r.ownMu.Lock()
	defer r.ownMu.Unlock()
	return r.own[lease]
}

// leased reports whether a lease of this process is in use.
func (r *Repository) leased() bool {
	r.ownMu.Lock()
	defer r.ownMu.Unlock()
	return len(r.own) > 0
}

func (r *Repository) setWriting(lease uint64, on bool) {
	r.ownMu.Lock()
	defer r.ownMu.Unlock()
	if on {
		r.own[lease] = true
	} else {
		delete(r.own, lease)
	}
}

// otherWriter is the number of a writer's lease that is not over and not this process's own, or 0. A store that cannot be
// shared has one process that writes; in it there may be several sessions, which one log keeps apart.
func (l *ledger) otherWriter(own func(lease uint64) bool) uint64 {
	for n, s := range l.leases {
		if s.access != accessRead && !s.over && !own(n) {
			return n
		}
	}
	return 0
}

func (l *lease) beat(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.mu.Lock()
			k := l.beats
			l.mu.Unlock()
			if err := l.r.createBeat(ctx, l.n, k); err != nil && ctx.Err() == nil {
				l.r.warn(fmt.Sprintf("heartbeat %d of lease %d: %v", k, l.n, err))
			}
			l.mu.Lock()
			l.beats++
			l.mu.Unlock()
		}
	}
}

func (r *Repository) createBeat(ctx context.Context, lease, k uint64) error {
	ctx, cancel := context.WithTimeout(ctx, beatEvery)
	defer cancel()
	_, file, err := r.sealClear(kindBeat, []byte("{}"))
	if err != nil {
		return err
	}
	return r.st.Create(ctx, beatName(lease, k), file)
}

// end stops the heartbeat, says in the log that the lease is over, and removes its heartbeats. It works also when the
// session's context is cancelled, for at most half a minute: a lease that is not ended holds up the next prune.
func (l *lease) end(ctx context.Context) error {
	l.cancel()
	<-l.done
	l.aside.Wait()
	l.r.setWriting(l.n, false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endDeadline)
	defer cancel()
	key, err := l.r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = l.r.log.append(ctx, key, func() (*record, error) {
		if err := l.r.log.live(l.n); err != nil {
			return nil, err
		}
		return &record{Kind: recordEnd, Lease: l.n}, nil
	})
	for k := range l.beats {
		if err := l.r.st.Remove(ctx, beatName(l.n, k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.r.warn(fmt.Sprintf("heartbeat %d of lease %d and those after it could not be removed: %v", k, l.n, err))
			break
		}
	}
	return err
}
