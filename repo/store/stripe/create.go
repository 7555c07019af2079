package stripe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// Create stores an object in four steps: its shards, durable on their members; its record, exclusively, on the arbiter,
// which is what makes the object; copies of the record on all others; and a look whether anybody has changed the set
// meanwhile. A crash before the second step leaves shards that a sweep removes, one after it a whole object.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if err := s.begin(ctx, store.ValidName(name)); err != nil {
		return fail("create", name, err)
	}
	defer s.work.Done()
	if reserved(name) {
		return fail("create", name, store.ErrForeign)
	}
	if len(data) > MaxObject {
		return fail("create", name, fmt.Errorf("%w: %d bytes, of at most %d", fs.ErrInvalid, len(data), MaxObject))
	}
	return fail("create", name, s.create(ctx, name, data))
}

func (s *Store) create(ctx context.Context, name string, data []byte) error {
	v, err := s.ready(ctx)
	if err != nil {
		return err
	}
	r := &record{Name: name, Set: v.set, Generation: v.Generation, Length: int64(len(data))}
	_, _ = rand.Read(r.Attempt[:]) // never fails
	s.hold(r.Attempt)
	defer s.release(r.Attempt)
	if !s.opts.stripes(name, len(data)) {
		r.Content = data
		return s.publish(ctx, v, r, nil)
	}
	arb, err := v.arbiter()
	if err != nil {
		return err
	}
	if _, err := arb.stat(ctx, name); err == nil { // not worth writing shards for
		return fs.ErrExist
	}
	r.Striped, r.K, r.M, r.Cell = true, v.Data, v.Parity, cellSize
	r.Seats = v.place(name)
	took, missed, err := s.writeShards(ctx, v, r, data)
	if err != nil {
		s.unwrite(ctx, v, r)
		return err
	}
	if len(missed) > 0 { // before the object exists: whoever sees it knows what it lacks
		if err := s.advance(ctx, func(n *State) error { return n.behind(keys(missed)) }); err != nil {
			s.unwrite(ctx, v, r)
			return errors.Join(append(values(missed), err)...)
		}
	}
	return s.publish(ctx, v, r, took)
}

func (s *Store) hold(attempt [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inflight[attempt] = true
}

func (s *Store) release(attempt [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inflight, attempt)
}

func (s *Store) busy(attempt [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inflight[attempt]
}

// ready is the view that a write starts from: every member is there, or, where writing without some is allowed, those
// that are not have been marked as behind.
func (s *Store) ready(ctx context.Context) (*view, error) {
	for range maxChanges {
		v := s.view()
		// Whoever slept through a promotion learns it before it writes anything. What happens after this is found by confirm.
		newer, failed := s.newer(ctx, v.writers(), v.Generation)
		if newer {
			if _, err := s.reload(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(failed) > 0 && !s.opts.Degraded { // soon, and before anything is half made
			return nil, v.missing(keys(failed), values(failed))
		}
		if _, err := v.arbiter(); err != nil {
			return nil, err
		}
		v, err := s.finish(ctx, v)
		if err != nil {
			return nil, err
		}
		away := v.away()
		if len(away) == 0 {
			if err := v.quorate(); err != nil {
				return nil, err
			}
			return v, nil
		}
		if !s.opts.Degraded {
			return nil, v.missing(away, nil)
		}
		gone := slices.DeleteFunc(away, func(id string) bool { return v.Members[v.seat(id)].Standing == Behind })
		if len(gone) == 0 {
			return v, v.quorate()
		}
		if err := s.advance(ctx, func(n *State) error { return n.behind(gone) }); err != nil && !errors.Is(err, errNewer) {
			return nil, err
		}
	}
	return nil, ErrFenced
}

// away are the ids of members that are not there or behind.
func (v *view) away() (ids []string) {
	for i, t := range v.seats {
		if t.member == nil || t.standing == Behind {
			ids = append(ids, v.Members[i].ID)
		}
	}
	return ids
}

func (v *view) missing(ids []string, causes []error) error {
	e := &MissingError{Causes: causes}
	for _, id := range ids {
		e.Members = append(e.Members, v.Members[v.seat(id)].Label)
	}
	return e
}

// quorate says whether enough members are there and up to date to write at all.
func (v *view) quorate() error {
	if have := len(v.current()); have < v.quorum() {
		return &LostError{Object: "members to write to", Have: have, Need: v.quorum()}
	}
	return nil
}

// writeShards makes the shards durable, and says which members took them. Seats that did not take theirs are missed: none
// without Options.Degraded, and at most m with it.
func (s *Store) writeShards(ctx context.Context, v *view, r *record, data []byte) (took []string, missed map[string]error, err error) {
	enc, err := encoder(r.K, r.M)
	if err != nil {
		return nil, nil, err
	}
	sh := shapeOf(r)
	shards, free := memory.take(len(r.Seats), sh.size())
	if err := sh.cut(enc, data, shards); err != nil {
		return nil, nil, err
	}
	errs := make([]error, len(shards))
	var wg sync.WaitGroup
	for i, at := range r.Seats {
		t := v.seats[at]
		if t.member == nil || t.standing == Behind {
			errs[i] = fmt.Errorf("member %s: %w", v.Members[at].Label, ErrMissing)
			continue
		}
		wg.Go(func() { errs[i] = of(t.member, t.create(ctx, shardName(r.Attempt, i), shards[i])) })
	}
	wg.Wait()
	if !errors.Is(errors.Join(errs...), errAbandoned) { // a call left behind may still read its shard
		free()
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	took, missed = make([]string, len(shards)), map[string]error{}
	lost := 0
	for i, err := range errs {
		if err == nil {
			took[i] = v.Members[r.Seats[i]].ID
			continue
		}
		lost++
		if at := r.Seats[i]; v.seats[at].member != nil && v.seats[at].standing != Behind {
			missed[v.Members[at].ID] = err
		}
	}
	switch err := errors.Join(errs...); {
	case lost > 0 && !s.opts.Degraded:
		return nil, nil, v.missing(keys(missed), []error{err})
	case lost > r.M:
		return nil, nil, &LostError{Object: r.Name, Have: len(errs) - lost, Need: r.K, Causes: []error{err}}
	}
	return took, missed, nil
}

func keys(m map[string]error) (ids []string) {
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func values(m map[string]error) (errs []error) {
	for _, id := range keys(m) {
		errs = append(errs, m[id])
	}
	return errs
}

// unwrite removes shards that no record names. What stays is for a sweep.
func (s *Store) unwrite(ctx context.Context, v *view, r *record) {
	if !r.Striped {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ReadDeadline)
	defer cancel()
	var wg sync.WaitGroup
	for i, at := range r.Seats {
		if t := v.seats[at]; t.member != nil {
			wg.Go(func() { _ = t.remove(ctx, shardName(r.Attempt, i)) })
		}
	}
	wg.Wait()
}
