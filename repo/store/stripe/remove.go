package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// Remove removes the copies of an object's record, then the arbiter's, which ends the object, then its shards. The
// arbiter's goes last among the records, so that at every moment a copy proves the object. Shards that stay because
// their member was away are found by a rebuild, a scrub or a sweep.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := s.begin(ctx, store.ValidName(name)); err != nil {
		return fail("remove", name, err)
	}
	defer s.work.Done()
	if reserved(name) {
		return fail("remove", name, store.ErrForeign)
	}
	return fail("remove", name, s.remove(ctx, name))
}

func (s *Store) remove(ctx context.Context, name string) error {
	for range maxChanges {
		v, err := s.ready(ctx)
		if err != nil {
			return err
		}
		r, err := s.fresh(ctx, name)
		if err != nil && !errors.Is(err, ErrTooFew) {
			return err
		}
		if err != nil { // a record that nobody can read any more can go all the same, if it is there
			if err := s.anyOf(ctx, v, name); err != nil {
				return err
			}
		}
		s.known.drop(name)
		again, err := s.unpublish(ctx, v, name)
		switch {
		case err != nil:
			return err
		case again:
			continue
		}
		if r != nil {
			s.unwrite(ctx, v, r)
		}
		return nil
	}
	return ErrFenced
}

// anyOf says whether the arbiter has something under the name.
func (s *Store) anyOf(ctx context.Context, v *view, name string) error {
	arb, err := v.arbiter()
	if err != nil {
		return err
	}
	_, err = arb.stat(ctx, name)
	return err
}

// unpublish removes all copies of a record. Members that fail are marked as behind where that is allowed, and it is done
// again without them.
func (s *Store) unpublish(ctx context.Context, v *view, name string) (again bool, err error) {
	arb, err := v.arbiter()
	if err != nil {
		return false, err
	}
	others := v.others(arb)
	failed := s.drop(ctx, others, name)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	newer, silent := s.newer(ctx, v.writers(), v.Generation)
	for id, err := range silent {
		failed[id] = err
	}
	switch {
	case newer:
		_, err := s.reload(ctx)
		return true, err
	case len(failed) > 0 && !s.opts.Degraded:
		return false, v.missing(keys(failed), values(failed))
	case len(failed) > 0:
		err := s.advance(ctx, func(n *State) error { return n.behind(keys(failed)) })
		if errors.Is(err, errNewer) {
			err = nil
		}
		return true, err
	}
	if err := arb.remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, of(arb, err)
	}
	// What a rebuild copied from the arbiter just before must not stay.
	var filling []*member
	for _, t := range v.seats {
		if t.member != nil && t.standing == Filling {
			filling = append(filling, t.member)
		}
	}
	if failed := s.drop(ctx, filling, name); len(failed) > 0 {
		return false, v.missing(keys(failed), values(failed))
	}
	return false, nil
}

// others are all who must have a record, but the arbiter.
func (v *view) others(arb *member) (list []*member) {
	for _, m := range v.writers() {
		if m.id != arb.id {
			list = append(list, m)
		}
	}
	return list
}

// drop removes a name from members, and says who failed.
func (s *Store) drop(ctx context.Context, members []*member, name string) map[string]error {
	errs := make([]error, len(members))
	each(members, func(i int, m *member) { errs[i] = m.remove(ctx, name) })
	failed := map[string]error{}
	for i, m := range members {
		if errs[i] != nil && !errors.Is(errs[i], fs.ErrNotExist) {
			failed[m.id] = of(m, errs[i])
		}
	}
	return failed
}

// Sweep removes shards that no record names: what is left of creations that died, and of removals while a member was
// away. Only with alone: without it another process may be about to write their record. Members' own sweeps run too.
func (s *Store) Sweep(ctx context.Context, alone bool) (store.Swept, error) {
	if err := s.begin(ctx, true); err != nil {
		return store.Swept{}, fmt.Errorf("sweep: %w", err)
	}
	defer s.work.Done()
	v := s.view()
	members := v.writers()
	swept, err := s.sweepMembers(ctx, members, alone)
	if err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	loose, err := s.loose(ctx, v, members)
	if err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	for _, l := range loose {
		if !alone {
			swept.Kept = 1 // a writer that may be alive
			continue
		}
		if err := l.remove(ctx, l.info.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return swept, fmt.Errorf("sweep: %w", of(l.member, err))
		}
		swept.Removed++
		swept.Bytes += l.info.Size
	}
	return swept, nil
}

func (s *Store) sweepMembers(ctx context.Context, members []*member, alone bool) (total store.Swept, err error) {
	var mu sync.Mutex
	errs := make([]error, len(members))
	each(members, func(i int, m *member) {
		sw, ok := store.As[store.Sweeper](m.st)
		if !ok {
			return
		}
		got, err := ask(ctx, m, s.opts.ListDeadline, func(ctx context.Context, _ store.Store) (store.Swept, error) { return sw.Sweep(ctx, alone) })
		mu.Lock()
		defer mu.Unlock()
		total.Removed, total.Bytes, total.Kept = total.Removed+got.Removed, total.Bytes+got.Bytes, total.Kept+got.Kept
		errs[i] = of(m, err)
	})
	return total, errors.Join(errs...)
}

// loose is a shard that no record names.
type loose struct {
	*member
	info store.Info
}

// loose finds them: shards are listed first, so that a creation which ends meanwhile has its record by the time when
// records are looked at.
func (s *Store) loose(ctx context.Context, v *view, members []*member) ([]loose, error) {
	lists := make([][]store.Info, len(members))
	errs := make([]error, len(members))
	each(members, func(i int, m *member) { lists[i], errs[i] = m.list(ctx, shardPrefix) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	named, err := s.attempts(ctx, v)
	if err != nil {
		return nil, err
	}
	var out []loose
	for i, m := range members {
		for _, info := range lists[i] {
			attempt, n, ok := parseShard(info.Name)
			if seats := named[attempt]; ok && (n < len(seats) && v.Members[seats[n]].ID == m.id || s.busy(attempt)) {
				continue
			}
			out = append(out, loose{m, info})
		}
	}
	return out, nil
}

// attempts are the seats of every striped object that there is, by its creation. A record that cannot be read ends it:
// the shards that it names would look as if nobody needed them.
func (s *Store) attempts(ctx context.Context, v *view) (map[[16]byte][]byte, error) {
	named := map[[16]byte][]byte{}
	known := map[string]bool{}
	for r, err := range s.striped(ctx, v) {
		if err != nil {
			return nil, err
		}
		named[r.Attempt], known[r.Name] = r.Seats, true
	}
	have, err := holders(ctx, v, "", v.current())
	if err != nil {
		return nil, err
	}
	for name, by := range have { // what an arbiter that was put back as it had been earlier does not know
		if known[name] || by[v.current()[0].id] {
			continue
		}
		switch r, err := s.anywhere(ctx, v, name); {
		case err == nil && r.Striped:
			named[r.Attempt] = r.Seats
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, fail("read", name, err)
		}
	}
	return named, nil
}
