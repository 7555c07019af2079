package stripe

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// found is what a store said of itself.
type found struct {
	*member
	identity
	state *State // the newest that is right; nil: none
	raw   []byte
	err   error // why it is no member

	rotten bool // a state is there, and damaged: waiting mends nothing
}

// survey asks every store who it is, and again for a moment where a new state seems to be on its way to all members: no pause is
// longer than a member may take to answer at all.
func (s *Store) survey(ctx context.Context) (*view, error) {
	for pause := 10 * time.Millisecond; ; pause *= 3 {
		v, underway, err := s.look(ctx)
		if err != nil || !underway || pause > min(time.Second, s.opts.ReadDeadline) {
			return v, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look is one survey. The newest state that any member of the set has is the set's: a quorum took it, or its maker died,
// or has not ended, and nothing was acknowledged under it yet.
func (s *Store) look(ctx context.Context) (v *view, underway bool, err error) {
	all := s.stores()
	list := make([]found, len(all))
	each(all, func(i int, m *member) { list[i] = s.meet(ctx, m) })
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	set, err := commonSet(list)
	if err != nil {
		return nil, false, err
	}
	newest, err := newestState(list, set)
	if err != nil {
		return nil, false, err
	}
	for _, f := range list {
		i := newest.seat(f.Member)
		late := i >= 0 && !f.rotten && newest.Members[i].Standing != Behind && (f.state == nil || f.state.Generation < newest.Generation)
		underway = underway || late
	}
	v, err = seated(newest, list)
	return v, underway, err
}

// meet reads a member's own file and its newest state.
func (s *Store) meet(ctx context.Context, m *member) found {
	f := found{member: m}
	f.identity, f.err = m.identify(ctx)
	if f.err != nil {
		return f
	}
	infos, err := m.list(ctx, statePrefix)
	if err != nil {
		f.err = of(m, err)
		return f
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(b.Name, a.Name) })
	for _, info := range infos[:min(len(infos), 16)] {
		raw, st, err := m.state(ctx, info.Name)
		if err == nil && st.Set == f.Set {
			f.raw, f.state = raw, st
			return f
		}
		f.err, f.rotten = of(m, err), true
	}
	if f.err == nil {
		f.err = fmt.Errorf("member %s: %w: it has no state", m.label, ErrDamaged)
	}
	return f
}

// identify reads a member's own file, or its second copy. Who was slow to say nothing about the one is not asked for the other: a set of
// which several are gone is waited for no longer than for one of them.
func (m *member) identify(ctx context.Context) (identity, error) {
	var first error
	begin := time.Now()
	for _, name := range []string{memberName, memberCopy} {
		if first != nil && time.Since(begin) >= m.slow.ReadDeadline/2 {
			break
		}
		b, err := m.readAll(ctx, name, maxState)
		if err == nil {
			var id identity
			if id, err = decodeIdentity(b); err == nil {
				return id, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	if errors.Is(first, fs.ErrNotExist) {
		return identity{}, fmt.Errorf("store %s: %w: it is no member", m.label, errBlank)
	}
	return identity{}, of(m, first)
}

var errBlank = errors.New("blank")

func (m *member) state(ctx context.Context, name string) ([]byte, *State, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, statePrefix), 16, 64)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, ErrDamaged)
	}
	raw, err := m.readAll(ctx, name, maxState)
	if err != nil {
		return nil, nil, err
	}
	st, err := decodeState(raw)
	if err == nil && st.Generation != n {
		err = fmt.Errorf("%s: %w: it is generation %d", name, ErrDamaged, st.Generation)
	}
	return raw, st, err
}

// commonSet is the set of most stores. Stores of two sets in equal number are refused.
func commonSet(list []found) (string, error) {
	votes, errs := map[string]int{}, []error{}
	for _, f := range list {
		if f.Set != "" {
			votes[f.Set]++
		} else {
			errs = append(errs, f.err)
		}
	}
	best, tie := "", false
	for set, n := range votes {
		switch {
		case n > votes[best]:
			best, tie = set, false
		case n == votes[best]:
			tie = true
		}
	}
	switch {
	case best == "":
		return "", noSet(errs)
	case tie:
		return "", fmt.Errorf("%w: stores of several sets", ErrConflict)
	}
	return best, nil
}

func noSet(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSet, err)
	}
	return ErrNotSet
}

// newestState is the state of the highest generation. Two different ones of it are a conflict, unless so many members have one of
// them that the other never was in force: then whoever has the other one has none that counts.
func newestState(list []found, set string) (*State, error) {
	var newest *found
	var errs []error
	for i := range list {
		f := &list[i]
		if f.Set != set || f.state == nil {
			errs = append(errs, f.err)
			continue
		}
		if newest == nil || f.state.Generation > newest.state.Generation {
			newest = f
		}
	}
	if newest == nil {
		return nil, noSet(errs)
	}
	same, other := holding(list, newest)
	if len(other) == 0 {
		return newest.state, nil
	}
	if len(other) > len(same) {
		newest = other[0]
		same, other = holding(list, newest)
	}
	if n := len(same); n < newest.state.quorum() || n <= newest.state.Parity {
		return nil, fmt.Errorf("%w: generation %d of the state differs between %s and %s", ErrConflict, newest.state.Generation, newest.label, other[0].label)
	}
	for _, f := range other {
		f.state, f.raw = nil, nil
	}
	return newest.state, nil
}

// holding are the members that have a state, and those that have another one of its generation.
func holding(list []found, one *found) (same, other []*found) {
	for i := range list {
		f := &list[i]
		switch {
		case f.Set != one.Set || f.state == nil || f.state.Generation != one.state.Generation:
		case bytes.Equal(f.raw, one.raw):
			same = append(same, f)
		default:
			other = append(other, f)
		}
	}
	return same, other
}

// seated gives every member of the state its seat.
func seated(st *State, list []found) (*view, error) {
	v := &view{State: *st, seats: make([]seat, len(st.Members))}
	raw, _ := hex.DecodeString(st.Set)
	copy(v.set[:], raw)
	for i, m := range st.Members {
		v.seats[i].standing = m.Standing
	}
	for _, f := range list {
		i := st.seat(f.Member)
		switch {
		case f.Set == st.Set && i >= 0 && v.seats[i].member != nil:
			return nil, fmt.Errorf("%w: stores %s and %s both say that they are %s", ErrConflict, v.seats[i].label, f.label, st.Members[i].Label)
		case f.Set == st.Set && i >= 0:
			v.sit(i, f)
		case f.Set == st.Set:
			v.odd = append(v.odd, fmt.Errorf("store %s was a member, and another one has its seat", f.label))
		case f.Set != "":
			v.odd = append(v.odd, fmt.Errorf("store %s is a member of another set", f.label))
		default:
			v.odd = append(v.odd, f.err)
		}
	}
	return v, nil
}

func (v *view) sit(i int, f found) {
	if f.state != nil {
		v.seats[i].generation = f.state.Generation
	}
	if f.state == nil || f.state.Generation != v.Generation {
		v.seats[i].standing = Behind
	}
	v.seats[i].member = &member{peer: f.peer, id: v.Members[i].ID, label: v.Members[i].Label}
}

// reload looks at all members anew.
func (s *Store) reload(ctx context.Context) (*view, error) {
	v, err := s.survey(ctx)
	if err != nil {
		return nil, err
	}
	s.setView(v)
	return s.view(), nil
}

// Identify says which member of which set a store is. [ErrNotSet]: it is none.
func Identify(ctx context.Context, st store.Store) (set, id string, err error) {
	m := &member{peer: &peer{st: st, slow: optionsOf(nil)}, label: "1"}
	known, err := m.identify(ctx)
	if errors.Is(err, errBlank) {
		err = fmt.Errorf("%w: %w", ErrNotSet, err)
	}
	return known.Set, known.Member, err
}

// Seat is how a member stands at the moment.
type Seat struct {
	Member
	Here    bool // it answered when the set was opened
	Arbiter bool
}

// Seats are all members as they were found when the state was last read. A member with an old state is behind, whatever
// the state says of it. Odd are stores that are no members, and why.
func (s *Store) Seats() (seats []Seat, odd []error) {
	v := s.view()
	for i, m := range v.Members {
		m.Standing = v.seats[i].standing
		seats = append(seats, Seat{m, v.seats[i].member != nil, m.ID == v.Arbiter})
	}
	return seats, v.odd
}
