package repo

import (
	"context"
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

	mu    sync.Mutex
	beats uint64
}

const (
	beatEvery   = 20 * time.Second
	endDeadline = 30 * time.Second
)

func (r *Repository) newLease(ctx context.Context, access string, points []id16) (*lease, error) {
	key, err := r.signingKey(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := r.log.append(ctx, key, func() (*record, error) {
		if access == accessWrite && !r.shared {
			if other := r.log.otherWriter(); other != 0 {
				return nil, fmt.Errorf("the store cannot be shared by writers, and lease %d is open: %w", other, ErrReadOnly)
			}
		}
		return &record{Kind: recordLease, Access: access, Points: points}, nil
	})
	if err != nil {
		return nil, err
	}
	beatCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{r: r, n: rec.N, cancel: cancel, done: make(chan struct{})}
	go l.beat(beatCtx)
	return l, nil
}

// otherWriter is the number of a writer's lease that is not over, or 0.
func (l *ledger) otherWriter() uint64 {
	for n, s := range l.leases {
		if s.access == accessWrite && !s.over {
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
			l.r.warn(fmt.Sprintf("heartbeat %d of lease %d could not be removed: %v", k, l.n, err))
		}
	}
	return err
}
