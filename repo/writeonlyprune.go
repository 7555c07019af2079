package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// A prune removes packs that a write-only client has in its cache, and the client cannot look whether they are there. The log says
// which were to go, as long as its records are there. So the cache holds how far it was held against the log, seen/<n>/<hash of that record>;
// where the log begins later than that, or has another record there, nothing of the cache counts, and the next backup is a full one.

func seenMark(n uint64, record hash) string { return fmt.Sprintf("seen/%016x/%x", n, record[:]) }

// bury notes in the cache what the log says of packs that go, and returns all that are not to be referred to.
func (w *writeOnly) bury(ctx context.Context) (map[packRef]bool, error) {
	if err := w.catchUp(ctx); err != nil {
		return nil, err
	}
	return w.dead(ctx)
}

func (w *writeOnly) catchUp(ctx context.Context) error {
	seen, marks, err := w.seen(ctx)
	if err != nil {
		return err
	}
	var from, head uint64
	var last hash
	dead := map[packRef]bool{}
	w.r.log.view(func(l *ledger) {
		from, head, last = l.from, l.n, l.last
		for _, d := range l.deaths {
			if of, known := l.scopeOf(d.pack.Lease); !d.alive && known && of == w.r.keys.scope {
				dead[d.pack] = true
			}
		}
	})
	if seen < from {
		if err := w.forgetAll(ctx); err != nil {
			return err
		}
	} else if err := w.mourn(ctx, dead); err != nil {
		return err
	}
	if seen == head {
		return nil
	}
	// Without the mark the next run takes the cache for older than it is: that costs a full backup, and nothing else.
	if err := w.cache.Create(ctx, seenMark(head, last), []byte{'\n'}); err != nil && !errors.Is(err, fs.ErrExist) {
		w.r.warn(fmt.Sprintf("the cache cannot be written to: %v", err))
		return nil
	}
	for _, name := range marks {
		if name != seenMark(head, last) {
			_ = w.cache.Remove(ctx, name) // one too many does no harm: what it says is true, or names a record that is not there
		}
	}
	return nil
}

// seen is how far the cache was held against this log: a store that was put back to an older state has gone on with other records.
func (w *writeOnly) seen(ctx context.Context) (n uint64, marks []string, err error) {
	for info, err := range w.cache.List(ctx, "seen/") {
		if err != nil {
			return 0, nil, err
		}
		marks = append(marks, info.Name)
		number, _, _ := strings.Cut(strings.TrimPrefix(info.Name, "seen/"), "/")
		if k, ok := parseNumber(number); ok && info.Name == seenMark(k, w.r.log.hashOf(k)) {
			n = max(n, k)
		}
	}
	return n, marks, nil
}

// A pack that is to go is dead/<its name> in the cache. What the cache has of it is still read, to build on a point that needs its
// pages wherever they are by now, and never referred to anew.

func deadMark(p packRef) string { return "dead/" + p.name() }

func (w *writeOnly) mourn(ctx context.Context, dead map[packRef]bool) error {
	for p := range dead {
		if err := w.cache.Create(ctx, deadMark(p), []byte{'\n'}); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// dead are the packs that were to go, as far as the cache was told.
func (w *writeOnly) dead(ctx context.Context) (map[packRef]bool, error) {
	list := map[packRef]bool{}
	for info, err := range w.cache.List(ctx, "dead/") {
		if err != nil {
			return nil, err
		}
		if p, ok := parsePack(strings.TrimPrefix(info.Name, "dead/")); ok {
			list[p] = true
		}
	}
	return list, nil
}

// forgetAll takes all out of the cache that is about packs, and the points that cannot be built on without it.
func (w *writeOnly) forgetAll(ctx context.Context) error {
	var gone []string
	for _, dir := range []string{"index/", "meta/", "manifest/"} {
		for info, err := range w.cache.List(ctx, dir) {
			if err != nil {
				return err
			}
			gone = append(gone, info.Name)
		}
	}
	if len(gone) > 0 {
		w.r.warn("this machine has not seen for so long what was removed from the repository that its cache counts for nothing: the next backup is a full one")
	}
	return w.drop(ctx, gone)
}

func (w *writeOnly) drop(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := w.cache.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
