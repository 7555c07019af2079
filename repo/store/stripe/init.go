package stripe

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/repo/store"
)

// InitOptions say how a set comes into being.
type InitOptions struct {
	Data, Parity int      // k and m: any m members may be lost
	Labels       []string // of the members, for people; missing ones are numbers
	Arbiter      int      // the index of the store that decides
}

// Init makes a set of empty stores, k+m at least, and opens it. A store that is a member already is refused. What a
// failed Init leaves is no set: take other folders, or remove what is in them.
func Init(ctx context.Context, stores []store.Store, how InitOptions, opts *Options) (*Store, error) {
	s := newStore(stores, opts)
	if err := s.found(ctx, len(stores), how); err != nil {
		return nil, fmt.Errorf("init striped set: %w", err)
	}
	v, err := s.survey(ctx)
	if err == nil {
		err = v.enough()
	}
	if err != nil {
		return nil, fmt.Errorf("init striped set: %w", err)
	}
	s.seen = v
	return s, nil
}

func (s *Store) found(ctx context.Context, n int, how InitOptions) error {
	if err := geometry(how.Data, how.Parity, n); err != nil {
		return err
	}
	if len(s.all) != n || how.Arbiter < 0 || how.Arbiter >= n {
		return errors.New("every store of a new set must be there, and one of them be the arbiter")
	}
	st := &State{Set: newID(), Generation: 1, Data: how.Data, Parity: how.Parity}
	for i, m := range s.all {
		if i < len(how.Labels) {
			m.label = how.Labels[i]
		}
		m.id = newID()
		st.Members = append(st.Members, Member{ID: m.id, Label: m.label, Standing: Current})
	}
	st.Arbiter = st.Members[how.Arbiter].ID
	if err := st.valid(); err != nil {
		return err
	}
	errs := make([]error, n)
	each(s.all, func(i int, m *member) { errs[i] = of(m, m.blank(ctx)) })
	if err := errors.Join(errs...); err != nil {
		return err
	}
	each(s.all, func(i int, m *member) { errs[i] = of(m, m.enrol(ctx, st)) })
	return errors.Join(errs...)
}

// blank says whether a store is empty: one with objects of its own would mix them with the set's.
func (m *member) blank(ctx context.Context) error {
	infos, err := m.list(ctx, "")
	if err == nil && len(infos) > 0 {
		err = fmt.Errorf("the store is not empty: %s", infos[0].Name)
	}
	return err
}

// enrol writes a member's own files. The state comes last: without it a store is no member.
func (m *member) enrol(ctx context.Context, st *State) error {
	b := text(memberMagic, &identity{Set: st.Set, Member: m.id})
	return errors.Join(m.create(ctx, memberName, b), m.create(ctx, memberCopy, b), m.create(ctx, stateName(st.Generation), st.encode()))
}
