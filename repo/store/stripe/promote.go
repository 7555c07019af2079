package stripe

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// PromoteOptions change how another arbiter is made.
type PromoteOptions struct {
	// Vouched says that a person knows every member which does not answer to be lost for good, or switched off. Without
	// it more than half of the members must take the new state, so that no two halves of a set that was cut in two can
	// both get an arbiter.
	Vouched bool
}

// Promote makes a member the arbiter, by its id or label. First the set gets a state without an arbiter on so many
// members that no create under the old one can be acknowledged any more; then all records that anybody who is up to
// date has are brought together; then comes the state with the new arbiter. Interrupted, it is called again. Members
// that do not answer are behind from then on, the old arbiter too: when it comes back it has an old state, nobody counts
// what it decided meanwhile, and a rebuild takes it in again.
func (s *Store) Promote(ctx context.Context, who string, opts *PromoteOptions) error {
	var o PromoteOptions
	if opts != nil {
		o = *opts
	}
	if err := s.begin(ctx, true); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	defer s.work.Done()
	s.admin.Lock()
	defer s.admin.Unlock()
	if err := s.promote(ctx, who, o); err != nil {
		return fmt.Errorf("promote %s: %w", who, err)
	}
	return nil
}

func (s *Store) promote(ctx context.Context, who string, o PromoteOptions) error {
	v, err := s.reload(ctx)
	if err == nil {
		v, err = s.finish(ctx, v)
	}
	if err != nil {
		return err
	}
	if err := v.enough(); err != nil {
		return err
	}
	at, err := v.find(who)
	if err != nil {
		return err
	}
	heir := v.seats[at]
	if heir.member == nil || heir.standing != Current {
		return &MissingError{Members: []string{v.Members[at].Label}, Causes: []error{errors.New("only a member that is there and up to date can decide")}}
	}
	fence := v.next()
	fence.Arbiter, fence.Heir = "", heir.id
	for i, t := range v.seats {
		if t.member == nil || t.standing == Behind {
			fence.Members[i].Standing = Behind
		}
	}
	if err := s.impose(ctx, v, fence, o); err != nil {
		return err
	}
	v = s.view()
	if _, err := s.level(ctx, v, "", v.current(), v.current()...); err != nil {
		return err
	}
	crowned := fence.next()
	crowned.Arbiter, crowned.Heir = heir.id, ""
	return s.impose(ctx, v, crowned, o)
}

// find gives a member's seat by its id or label.
func (v *view) find(who string) (int, error) {
	at := -1
	for i, m := range v.Members {
		if m.ID != who && m.Label != who {
			continue
		}
		if at >= 0 {
			return 0, fmt.Errorf("several members are called %q: name one by its id", who)
		}
		at = i
	}
	if at < 0 {
		return 0, fmt.Errorf("no member is called %q", who)
	}
	return at, nil
}

// impose writes a state without asking an arbiter. Members that were to take it and did not are marked as behind in one
// generation more.
func (s *Store) impose(ctx context.Context, v *view, next *State, o PromoteOptions) error {
	for range maxChanges {
		took := s.hand(ctx, v, next)
		need := next.quorum()
		if o.Vouched {
			need = len(next.Members) - next.Parity
		}
		n := 0
		for _, ok := range took {
			if ok {
				n++
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if n < need {
			return &LostError{Object: "state", Have: n, Need: need}
		}
		w, err := s.reload(ctx)
		if err != nil {
			return err
		}
		if w.Generation != next.Generation {
			return errNewer
		}
		missed := slices.DeleteFunc(slices.Clone(next.Members), func(m Member) bool { return m.Standing == Behind || took[m.ID] })
		if len(missed) == 0 {
			return nil
		}
		*next = *next.next()
		for _, m := range missed {
			if m.ID == next.Arbiter || m.ID == next.Heir {
				return ErrNoArbiter
			}
			next.Members[next.seat(m.ID)].Standing = Behind
		}
		v = w
	}
	return errNewer
}
