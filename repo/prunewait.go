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

// deadAfter is how long a lease shows no sign of life before another client ends it. pollEvery is how often that is looked at.
const (
	deadAfter = 3 * beatEvery
	pollEvery = 5 * time.Second
)

// maxWatched bounds how many leases are looked at, the oldest first: a write-only client that was taken over may have begun any number.
// The next prune takes the others.
const maxWatched = 256

// watch waits for leases to be over, and ends those that show no new heartbeat for so long. All by our own monotonic clock:
// nobody's time is compared with anybody's. A wrong guess costs that session its point, and nothing else.
type watch struct {
	r     *Repository
	key   ed25519.PrivateKey
	by    uint64 // the lease under which others are ended; 0: none
	why   string
	seen  map[uint64]map[string]bool
	sign  map[uint64]time.Time // of the last new heartbeat, or of the first look
	alive map[uint64]bool      // has shown a new one
}

func (r *Repository) newWatch(key ed25519.PrivateKey, by uint64, why string) *watch {
	return &watch{r: r, key: key, by: by, why: why, seen: map[uint64]map[string]bool{}, sign: map[uint64]time.Time{}, alive: map[uint64]bool{}}
}

// outlast waits until none of the leases is open that list gives. patience: how long; zero: until it is known which of them
// live; negative: not at all.
func (w *watch) outlast(ctx context.Context, patience time.Duration, list func(*ledger) []uint64) error {
	began := time.Now()
	for {
		if err := w.r.log.refresh(ctx); err != nil {
			return err
		}
		var open []uint64
		w.r.log.view(func(l *ledger) { open = list(l) })
		if len(open) == 0 || patience < 0 {
			return nil
		}
		undecided := false
		for _, n := range open[:min(len(open), maxWatched)] {
			if w.r.writing(n) { // this process's own: it lives
				continue
			}
			dead, err := w.look(ctx, n)
			if err != nil {
				return err
			}
			if dead {
				if err := w.end(ctx, n); err != nil {
					return err
				}
			}
			undecided = undecided || !w.alive[n]
		}
		if patience == 0 && (!undecided || time.Since(began) >= deadAfter+pollEvery) || patience > 0 && time.Since(began) >= patience {
			return nil
		}
		if err := wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// look reports whether a lease has shown no sign of life for so long.
func (w *watch) look(ctx context.Context, n uint64) (dead bool, err error) {
	now, err := w.r.beats(ctx, n)
	if err != nil {
		return false, err
	}
	before, known := w.seen[n]
	w.seen[n] = now
	if !known {
		w.sign[n] = time.Now()
		return false, nil
	}
	for name := range now {
		if !before[name] {
			w.sign[n], w.alive[n] = time.Now(), true
		}
	}
	return time.Since(w.sign[n]) >= deadAfter, nil
}

func (w *watch) end(ctx context.Context, n uint64) error {
	_, err := w.r.log.append(ctx, w.key, func() (*record, error) {
		if w.by != 0 {
			if err := w.r.log.live(w.by); err != nil {
				return nil, fmt.Errorf("this prune: %w", errors.Join(err, errFenced))
			}
		}
		if err := w.r.log.live(n); err != nil {
			return nil, err
		}
		return &record{Kind: recordRevoke, Lease: n, Note: note(w.why)}, nil
	})
	if errors.Is(err, errFenced) {
		return err
	}
	if errors.Is(err, errAppendRefused) || errors.Is(err, ErrRevoked) || errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended meanwhile
	}
	return err
}

// errFenced says that who wanted to end another was ended himself.
var errFenced = errors.New("its own lease is over")

// pruneAlone makes sure that no other prune is under way. One that died is ended, if there is time to find that out.
func (r *Repository) pruneAlone(ctx context.Context, watching bool) error {
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	other := func(l *ledger) []uint64 {
		if n := l.pruner(); n != 0 {
			return []uint64{n}
		}
		return nil
	}
	patience := time.Duration(-1)
	if watching {
		patience = 0
	}
	if err := r.newWatch(key, 0, "no sign of life of this prune").outlast(ctx, patience, other); err != nil {
		return err
	}
	var still []uint64
	r.log.view(func(l *ledger) { still = other(l) })
	if len(still) > 0 {
		return &BusyError{Lease: still[0]}
	}
	return nil
}

// outlastTombs waits for the sessions that are older than a tombstone.
func (p *prune) outlastTombs(ctx context.Context) error {
	return p.outlast(ctx, p.opts.Wait, func(l *ledger) []uint64 { return l.waitedFor(p.lease.n) })
}

// outlastHolders finds out which of the sessions are dead for which something was kept that no point needs: the packs that they wrote
// themselves, and forgotten points that they read or build on. errMarkAgain: some of it can go now, also because such a session has
// ended since the mark.
func (p *prune) outlastHolders(ctx context.Context, m *marking) error {
	if p.opts.DryRun {
		return nil
	}
	s, err := m.survey(m.tombs())
	if err != nil {
		return err
	}
	var idle []packRef // nobody needs them, and no tombstone names them
	for num, live := range s.live {
		ref := m.x.pack(uint32(num))
		_, dead := s.tombs[ref]
		if _, here := m.present[ref]; here && live == 0 && !dead && !m.gone[uint32(num)] {
			idle = append(idle, ref)
		}
	}
	holders := func(l *ledger) (list []uint64) {
		for _, n := range l.openBelow(m.mark+1, p.lease.n) {
			if slices.ContainsFunc(idle, func(ref packRef) bool { return ref.Lease == n }) ||
				slices.ContainsFunc(l.leases[n].points, func(id id16) bool { return m.leaving[id] }) {
				list = append(list, n)
			}
		}
		return list
	}
	if err := p.outlast(ctx, min(p.opts.Wait, 0), holders); err != nil { // until it is known who is dead: the living will need it
		return err
	}
	if len(m.mayGo(idle)) > 0 || p.left(m) {
		return errMarkAgain
	}
	return nil
}

// left reports whether a forgotten point was marked for a session that is over by now.
func (p *prune) left(m *marking) (left bool) {
	p.r.log.view(func(l *ledger) {
		pins := l.pinned()
		for id := range m.leaving {
			left = left || !pins[id]
		}
	})
	return left
}

// outlast waits for sessions, see watch. Those that were waited for in vain are not again.
func (p *prune) outlast(ctx context.Context, patience time.Duration, list func(*ledger) []uint64) error {
	if p.watch == nil {
		key, err := p.r.signingKey(ctx)
		if err != nil {
			return err
		}
		p.watch = p.r.newWatch(key, p.lease.n, "no sign of life")
	}
	if patience > 0 {
		if patience -= p.waited; patience <= 0 {
			patience = -1
		}
	}
	began := time.Now()
	defer func() { p.waited += time.Since(began) }()
	return p.watch.outlast(ctx, patience, list)
}
