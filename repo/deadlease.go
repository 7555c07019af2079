package repo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// A client whose run was killed leaves a lease that nobody ends. Its next runs do: they look which leases of the same key
// are open and not of this process, and end those that show no new heartbeat for three times as long as one takes. A
// wrong guess costs that other session its point, and nothing else: a commit counts only while its lease is open.
//
// On a store that writers share this goes on beside a session, and ends with it; where only one may write, the next
// session waits for it.

// maxTidied bounds how many leases one session looks at: the next one takes the others.
const maxTidied = 64

// openOf are the open leases of a key, the oldest first, besides those that skip names.
func (l *ledger) openOf(key publicKey, skip func(lease uint64) bool) (list []uint64) {
	for n, s := range l.leases {
		if s.key == key && !s.over && !skip(n) {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// abandoned are the leases of a key that no session of this process has.
func (r *Repository) abandoned(key ed25519.PrivateKey) (list []uint64) {
	r.log.view(func(l *ledger) { list = l.openOf(publicOf(key), r.writing) })
	return list[:min(len(list), maxTidied)]
}

// tidy ends the leases of a key's dead sessions.
func (r *Repository) tidy(ctx context.Context, key ed25519.PrivateKey) error {
	if !r.tidying.TryLock() {
		return nil // another session of this process is at it
	}
	defer r.tidying.Unlock()
	open := r.abandoned(key)
	if len(open) == 0 {
		return nil
	}
	before := map[uint64]map[string]bool{}
	for _, n := range open {
		beats, err := r.beats(ctx, n)
		if err != nil {
			return err
		}
		before[n] = beats
	}
	if err := wait(ctx, 3*beatEvery); err != nil {
		return err
	}
	for _, n := range open {
		if err := r.endDead(ctx, key, n, before[n]); err != nil {
			return err
		}
	}
	return nil
}

// endDead ends a lease of this key if it has no other heartbeats than it had.
func (r *Repository) endDead(ctx context.Context, key ed25519.PrivateKey, n uint64, before map[string]bool) error {
	after, err := r.beats(ctx, n)
	if err != nil {
		return err
	}
	for name := range after {
		if !before[name] {
			return nil
		}
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if err := r.log.live(n); err != nil {
			return nil, err
		}
		return &record{Kind: recordEnd, Lease: n}, nil
	})
	if errors.Is(err, errAppendRefused) || errors.Is(err, ErrRevoked) || errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended meanwhile
	}
	if err != nil {
		return err
	}
	for name := range after {
		if err := r.st.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.warn(fmt.Sprintf("%s could not be removed: %v", name, err))
			break
		}
	}
	return nil
}

// tidyBeside is tidy beside a session, for as long as that lasts.
func (l *lease) tidyBeside(ctx context.Context, key ed25519.PrivateKey) {
	if len(l.r.abandoned(key)) == 0 {
		return
	}
	l.aside.Go(func() {
		if err := l.r.tidy(ctx, key); err != nil && ctx.Err() == nil {
			l.r.warn(fmt.Sprintf("dead sessions of this client could not be ended: %v", err))
		}
	})
}

// wait waits, as long as the context allows.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
