package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/repo/store"
)

// publish creates the record on the arbiter, and has it acknowledged. took are the members that have its shards.
func (s *Store) publish(ctx context.Context, v *view, r *record, took []string) error {
	arb, err := v.arbiter()
	if err != nil {
		return err
	}
	raw := r.encode()
	if err := arb.create(ctx, r.Name, raw); err != nil {
		if err = s.settleCreate(ctx, v, arb, r, err); err != nil {
			return err
		}
	}
	err = s.confirm(ctx, arb, r, raw, took)
	if errors.Is(err, ErrConflict) {
		s.retract(ctx, v, arb, r)
	}
	return err
}

// retract takes a record back that another one contradicts. Copies are made after the arbiter has decided, so the other one was
// there first, and the arbiter was put back as it had been earlier: while ours stood there it would be believed. The arbiter's
// goes last, as in a removal, and shards only when no record of this creation is left.
func (s *Store) retract(ctx context.Context, v *view, arb *member, r *record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.WriteDeadline)
	defer cancel()
	s.known.drop(r.Name)
	members := append(v.others(arb), arb)
	for _, m := range members {
		there, err := s.load(ctx, v, m, r.Name)
		if err == nil && there.Attempt == r.Attempt {
			err = m.remove(ctx, r.Name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
			return
		}
	}
	s.unwrite(ctx, v, r)
}

// settleCreate finds out what a failed creation did: nil, where the record is ours after all.
func (s *Store) settleCreate(ctx context.Context, v *view, arb *member, r *record, failure error) error {
	if errors.Is(failure, fs.ErrExist) && !errors.Is(failure, errAbandoned) {
		there, err := s.load(ctx, v, arb, r.Name)
		switch {
		case err == nil && there.Attempt == r.Attempt:
			return nil
		case err != nil && !errors.Is(err, ErrDamaged): // whose it is could not be found out: it may need the shards
			return of(arb, err)
		}
		s.unwrite(ctx, v, r)
		return fs.ErrExist
	}
	if errors.Is(failure, store.ErrForeign) {
		s.unwrite(ctx, v, r)
		return failure
	}
	if ctx.Err() != nil || errors.Is(failure, errAbandoned) {
		return failure // it may still happen: the shards stay
	}
	there, err := s.load(ctx, v, arb, r.Name)
	switch {
	case err == nil && there.Attempt == r.Attempt && errors.Is(failure, store.ErrNotDurable):
		return failure
	case err == nil && there.Attempt == r.Attempt:
		return s.settleName(ctx, arb, r.Name, failure)
	case err == nil, errors.Is(err, fs.ErrNotExist):
		s.unwrite(ctx, v, r)
	}
	return of(arb, failure)
}

// settleName makes a name durable whose creation gave an error.
func (s *Store) settleName(ctx context.Context, arb *member, name string, failure error) error {
	settler, ok := store.As[store.Settler](arb.st)
	if !ok {
		return of(arb, failure)
	}
	return of(arb, arb.do(ctx, s.opts.WriteDeadline, func(ctx context.Context, _ store.Store) error {
		return settler.Settle(ctx, folder(name))
	}))
}

// confirm copies a record to everybody who must have it, and makes sure that the arbiter still was one.
func (s *Store) confirm(ctx context.Context, arb *member, r *record, raw []byte, took []string) error {
	has := map[string]bool{arb.id: true}
	for range maxChanges {
		v := s.view()
		if now, err := v.arbiter(); err != nil || now.id != arb.id {
			return ErrFenced
		}
		failed, err := s.copies(ctx, v, r, raw, has)
		if err != nil {
			return err
		}
		s.reshard(ctx, v, r, took, failed)
		for i, t := range v.seats { // who has not got the state by now would be believed without having the record
			if v.Members[i].Standing != Behind && (t.member == nil || t.standing == Behind) {
				failed[v.Members[i].ID] = fmt.Errorf("member %s: %w", v.Members[i].Label, ErrMissing)
			}
		}
		var asked []*member
		for _, m := range v.writers() {
			if failed[m.id] == nil {
				asked = append(asked, m)
			}
		}
		newer, silent := s.newer(ctx, asked, v.Generation)
		for id, err := range silent {
			failed[id] = err
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case newer:
			if _, err := s.reload(ctx); err != nil {
				return err
			}
			continue
		case len(failed) == 0:
			if err := v.quorate(); err != nil {
				return err
			}
			s.known.put(r)
			return nil
		case !s.opts.Degraded:
			return v.missing(keys(failed), values(failed))
		}
		err = s.advance(ctx, func(n *State) error { return n.behind(keys(failed)) })
		if err != nil && !errors.Is(err, errNewer) {
			return err
		}
	}
	return ErrFenced
}

// reshard gives shards to members that have been filled, or have got a seat, since the shards were written: a rebuild that has
// ended did not know of this object.
func (s *Store) reshard(ctx context.Context, v *view, r *record, took []string, failed map[string]error) {
	for i, had := range took {
		t := v.seats[r.Seats[i]]
		if t.member == nil || t.standing == Behind || t.id == had || failed[t.id] != nil {
			continue
		}
		raw, free, err := s.remake(ctx, v, shapeOf(r), i)
		if err == nil {
			err = t.create(ctx, shardName(r.Attempt, i), raw)
			if !errors.Is(err, errAbandoned) {
				free()
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			failed[t.id] = of(t.member, err)
			continue
		}
		took[i] = t.id
	}
}

// writers are the members that must get whatever is new.
func (v *view) writers() (list []*member) {
	for _, t := range v.seats {
		if t.member != nil && t.standing != Behind {
			list = append(list, t.member)
		}
	}
	return list
}

// copies creates the record wherever it is not yet. One that is there and differs is a conflict.
func (s *Store) copies(ctx context.Context, v *view, r *record, raw []byte, has map[string]bool) (map[string]error, error) {
	members := slices.DeleteFunc(v.writers(), func(m *member) bool { return has[m.id] })
	errs := make([]error, len(members))
	each(members, func(i int, m *member) { errs[i] = s.copyTo(ctx, v, m, r, raw) })
	failed := map[string]error{}
	for i, m := range members {
		switch {
		case errs[i] == nil:
			has[m.id] = true
		case errors.Is(errs[i], ErrConflict):
			return nil, errs[i]
		default:
			failed[m.id] = errs[i]
		}
	}
	return failed, nil
}

func (s *Store) copyTo(ctx context.Context, v *view, m *member, r *record, raw []byte) error {
	err := m.create(ctx, r.Name, raw)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return of(m, err)
	}
	there, err := s.load(ctx, v, m, r.Name)
	switch {
	case err == nil && there.Attempt == r.Attempt:
		return nil
	case err == nil, errors.Is(err, ErrDamaged):
		return fmt.Errorf("%w: %s on member %s is another object", ErrConflict, r.Name, m.label)
	}
	return of(m, err)
}
