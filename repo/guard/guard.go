// Package guard keeps a repository's store for clients that are not trusted with it, without holding any secret of the
// repository: it is what stands behind a blind target.
//
// Reach for it to let machines that may be taken over add restore points, and nothing else. A [Guard] wraps a store;
// [Guard.For] is that store as one peer sees it:
//
//	                     append peer                                        full peer
//	header, log          reads                                              reads
//	log/<n>              creates the next one, if its key may say it, at    creates
//	                     most 200 at once and 60 a minute for long
//	copies               creates, byte for byte as the first place          creates
//	data meta index      creates below its own open leases, every cell      creates, every cell whole
//	anchor manifest      whole, sealed for the repository's readers;
//	                     reads none of them
//	beat                 creates, lists and removes those of its leases     everything
//	slot, all else       nothing                                            everything
//
// # What to know first
//
// An append peer's rights are those that the log gives to the key that it signs with, not those that it claims. The
// first record that a peer brings binds its key to it; from then on no other peer may use that key's leases. All
// refusals are fs.ErrPermission with the reason, and have changed nothing. Of the leases of a key those count as open
// whose heartbeats come: a machine that dies each night is not shut out, and the owner may revoke what it leaves.
//
// What a blind guard cannot do: it does not see whether what is sealed is any good, so a client that was taken over can
// add worthless points, fill the disk, and hold its own lease for long. It cannot touch, hide or read what was there.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// Options are how a guard works. Nil and zero fields are good defaults.
type Options struct {
	// Dir is the folder where the guard remembers which key is whose. Empty: until the process ends.
	Dir string
	// Log is told about refusals. Nil: nobody is.
	Log *slog.Logger
}

// Guard keeps one repository's store. It is safe for concurrent use.
type Guard struct {
	st   store.Store
	log  *slog.Logger
	keys *keyBook
	pace pace
	beat signs

	mu     sync.Mutex
	public *repo.Public // nil until there is a repository

	probing sync.Mutex
	probed  time.Time
	can     store.Abilities
}

// New guards a store. The repository in it may come later, by a full peer.
func New(st store.Store, opts *Options) (*Guard, error) {
	if opts == nil {
		opts = &Options{}
	}
	keys, err := openKeyBook(opts.Dir)
	if err != nil {
		return nil, err
	}
	g := &Guard{
		st: st, log: opts.Log, keys: keys,
		pace: pace{of: map[[32]byte]*allowance{}}, beat: signs{last: map[uint64]time.Time{}},
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	return g, nil
}

// For is the store as one peer sees it. With full it is the store itself, but for objects with damaged cells. Closing
// it does not close the guarded store.
func (g *Guard) For(peer string, full bool) store.Store {
	if full {
		return &fullView{view{g: g, peer: peer}}
	}
	return &appendView{view{g: g, peer: peer}}
}

// repository is the public side of what is guarded.
func (g *Guard) repository(ctx context.Context) (*repo.Public, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.public != nil {
		return g.public, nil
	}
	p, err := repo.OpenPublic(ctx, g.st, func(text string) { g.log.Warn("repository", "warning", text) })
	if err != nil {
		return nil, err
	}
	g.public = p
	if s, ok := store.As[store.Sweeper](g.st); ok { // of a guard that was killed
		if swept, err := s.Sweep(ctx, false); err != nil || swept.Removed > 0 {
			g.log.Info("unfinished objects", "removed", swept.Removed, "err", err)
		}
	}
	return p, nil
}

// settle makes durable the names of packs, below prefix, that a writer or this process may have left otherwise.
func (g *Guard) settle(ctx context.Context, prefix string) error {
	s, ok := store.As[store.Settler](g.st)
	if !ok {
		return nil
	}
	p, err := g.repository(ctx)
	if errors.Is(err, repo.ErrNotRepository) {
		return nil
	}
	if err == nil {
		err = p.Refresh(ctx)
	}
	if err != nil {
		return err
	}
	for _, lease := range p.Unsettled() {
		if err := s.Settle(ctx, fmt.Sprintf("%s%016x/", prefix, lease)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// probe asks the store what it can do, at most once a minute: it writes to find out, and anybody may ask.
func (g *Guard) probe(ctx context.Context) (store.Abilities, error) {
	g.probing.Lock()
	defer g.probing.Unlock()
	if !g.probed.IsZero() && time.Since(g.probed) < time.Minute {
		return g.can, nil
	}
	p, ok := store.As[store.Prober](g.st)
	if !ok {
		return store.Abilities{}, nil
	}
	can, err := p.Probe(ctx)
	if err == nil {
		g.can, g.probed = can, time.Now()
	}
	return can, err
}

// refused notes a refusal and passes it on.
func (g *Guard) refused(op, peer, name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		level := slog.LevelWarn
		if op == "stat" { // who has created something, and lost the answer, looks whether it is there: that is no attack
			level = slog.LevelDebug
		}
		g.log.Log(context.Background(), level, "refused", "peer", peer, "op", op, "object", name, "reason", err.Error())
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", fs.ErrPermission, fmt.Sprintf(format, args...))
}
