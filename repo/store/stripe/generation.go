package stripe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// advance makes the state's next generation and has every member that must know it take it: whoever does not is marked
// as behind in one more generation, if that may be. The exclusive creation on the arbiter decides between two who try.
// On errNewer somebody else was faster, and the view has been read anew.
func (s *Store) advance(ctx context.Context, change func(*State) error) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	for range maxChanges {
		v := s.view()
		arb, err := v.arbiter()
		if err != nil {
			return err
		}
		next := v.next()
		v.demote(next)
		if err := change(next); err != nil {
			return err
		}
		if err := next.valid(); err != nil {
			return err
		}
		if next.like(&v.State) { // somebody else has done it
			return nil
		}
		if err := s.decide(ctx, arb, next); err != nil {
			return err
		}
		missed := s.spread(ctx, v, next)
		w, err := s.reload(ctx)
		if err != nil {
			return err
		}
		if w.Generation != next.Generation {
			return errNewer
		}
		if len(missed) == 0 {
			return nil
		}
		change = func(n *State) error { return n.behind(missed) }
	}
	return fmt.Errorf("%w: members fail one after another", ErrMissing)
}

// demote marks in a state who is there with an old one: having the new one would make it current, and what it missed is not
// known.
func (v *view) demote(next *State) {
	for i, t := range v.seats {
		if t.member != nil && t.standing == Behind {
			next.Members[i].Standing = Behind
		}
	}
}

// finish completes a state that few members have, because its maker died. One that fewer can have than outlive the loss of m
// was never in force: nothing was acknowledged under it, and who has the state before it has missed nothing.
func (s *Store) finish(ctx context.Context, v *view) (*view, error) {
	could, late := 0, []*member(nil)
	for i, t := range v.seats {
		switch {
		case t.member == nil || t.generation == v.Generation:
			could++
		case t.generation+1 == v.Generation && v.Members[i].Standing != Behind:
			late = append(late, t.member)
		}
	}
	if len(late) == 0 || could >= len(v.seats)-v.Parity {
		return v, nil
	}
	s.give(ctx, &v.State, late)
	return s.reload(ctx)
}

// like says whether two states differ in their generation alone.
func (s *State) like(other *State) bool {
	same := *s
	same.Generation = other.Generation
	return bytes.Equal(same.encode(), other.encode())
}

const maxChanges = 8

// behind marks members as behind. What is left must be a quorum with the arbiter in it.
func (s *State) behind(ids []string) error {
	for _, id := range ids {
		i := s.seat(id)
		if i < 0 {
			return errNewer
		}
		if id == s.Arbiter {
			return ErrNoArbiter
		}
		s.Members[i].Standing = Behind
	}
	have := 0
	for _, m := range s.Members {
		if m.Standing == Current {
			have++
		}
	}
	if have < s.quorum() {
		return &LostError{Object: "state", Have: have, Need: s.quorum()}
	}
	return nil
}

// decide creates the state on the arbiter.
func (s *Store) decide(ctx context.Context, arb *member, next *State) error {
	raw, name := next.encode(), stateName(next.Generation)
	err := arb.create(ctx, name, raw)
	if err == nil {
		return nil
	}
	there, readErr := arb.readAll(ctx, name, maxState)
	switch {
	case readErr == nil && bytes.Equal(there, raw): // the answer was lost, or this very state is being completed
		return nil
	case errors.Is(err, fs.ErrExist):
		if _, err := s.reload(ctx); err != nil {
			return err
		}
		return errNewer
	}
	return of(arb, err)
}

// spread gives the state to everybody who is there, and returns the ids of members that must have it and have not.
// Who is behind gets it too where that works: the more know of it, the better.
func (s *Store) spread(ctx context.Context, v *view, next *State) (missed []string) {
	took := s.hand(ctx, v, next)
	for _, m := range next.Members {
		if m.Standing != Behind && !took[m.ID] {
			missed = append(missed, m.ID)
		}
	}
	return missed
}

// hand creates the state on every member that answers, and says who has it.
func (s *Store) hand(ctx context.Context, v *view, next *State) map[string]bool {
	return s.give(ctx, next, v.there())
}

func (s *Store) give(ctx context.Context, next *State, there []*member) map[string]bool {
	raw, name := next.encode(), stateName(next.Generation)
	ok := make([]bool, len(there))
	each(there, func(i int, m *member) {
		if ok[i] = m.create(ctx, name, raw) == nil; !ok[i] {
			b, err := m.readAll(ctx, name, maxState)
			ok[i] = err == nil && bytes.Equal(b, raw)
		}
	})
	took := map[string]bool{}
	for i, m := range there {
		took[m.id] = ok[i]
	}
	return took
}

// newer asks members whether there is a state after this one. Whose answer does not come is in failed, by id.
func (s *Store) newer(ctx context.Context, members []*member, generation uint64) (newer bool, failed map[string]error) {
	errs := make([]error, len(members))
	each(members, func(i int, m *member) { _, errs[i] = m.stat(ctx, stateName(generation+1)) })
	failed = map[string]error{}
	for i, m := range members {
		switch {
		case errs[i] == nil:
			newer = true
		case !errors.Is(errs[i], fs.ErrNotExist):
			failed[m.id] = of(m, errs[i])
		}
	}
	return newer, failed
}
