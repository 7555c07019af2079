package stripe

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/repo/store"
)

// Probe gives the abilities that all members have: the weakest decides. A set without its arbiter cannot be written to,
// which is an error.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	if err := s.begin(ctx, true); err != nil {
		return store.Abilities{}, fmt.Errorf("probe: %w", err)
	}
	defer s.work.Done()
	v := s.view()
	if _, err := v.arbiter(); err != nil {
		return store.Abilities{}, fmt.Errorf("probe: %w", err)
	}
	if away := v.away(); len(away) > 0 && !s.opts.Degraded {
		return store.Abilities{}, fmt.Errorf("probe: %w", v.missing(away, nil))
	}
	members := v.writers()
	found, errs := make([]store.Abilities, len(members)), make([]error, len(members))
	each(members, func(i int, m *member) {
		if p, ok := store.As[store.Prober](m.st); ok {
			found[i], errs[i] = ask(ctx, m, s.opts.WriteDeadline, func(ctx context.Context, _ store.Store) (store.Abilities, error) { return p.Probe(ctx) })
			errs[i] = of(m, errs[i])
		}
	})
	all := store.Abilities{ExclusiveCreate: true, DurableNames: true, FreshReads: true}
	for i, a := range found {
		if errs[i] != nil && s.opts.Degraded && members[i].id != v.Arbiter {
			continue // it will be marked as behind by the first write
		}
		if errs[i] != nil {
			return store.Abilities{}, fmt.Errorf("probe: %w", errs[i])
		}
		all.ExclusiveCreate = all.ExclusiveCreate && a.ExclusiveCreate
		all.DurableNames = all.DurableNames && a.DurableNames
		all.FreshReads = all.FreshReads && a.FreshReads
	}
	return all, nil
}

// Strands are the labels of members that a write would mark as behind now: those that are away or do not answer, have missed nothing so far,
// and may be done without because of [Options.Degraded]. They need a rebuild afterwards, so whoever only reads and could do without
// writing asks first. It waits no longer than one member may take to answer.
func (s *Store) Strands(ctx context.Context) (labels []string) {
	if !s.opts.Degraded || s.begin(ctx, true) != nil {
		return nil
	}
	defer s.work.Done()
	v := s.view()
	_, silent := s.newer(ctx, v.writers(), v.Generation)
	for i, m := range v.Members {
		if m.Standing != Behind && (v.seats[i].member == nil || silent[m.ID] != nil) {
			labels = append(labels, m.Label)
		}
	}
	return labels
}

// Settle settles the names on all members, and gives every member the records that a dead creator left on the arbiter
// alone.
func (s *Store) Settle(ctx context.Context, prefix string) error {
	if err := s.begin(ctx, store.ValidPrefix(prefix)); err != nil {
		return fail("settle", prefix, err)
	}
	defer s.work.Done()
	return fail("settle", prefix, s.settle(ctx, prefix))
}

func (s *Store) settle(ctx context.Context, prefix string) error {
	v, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if _, err := s.level(ctx, v, prefix, v.writers()); err != nil {
		return err
	}
	members := v.writers()
	errs := make([]error, len(members))
	each(members, func(i int, m *member) {
		if t, ok := store.As[store.Settler](m.st); ok {
			errs[i] = of(m, m.do(ctx, s.opts.WriteDeadline, func(ctx context.Context, _ store.Store) error { return t.Settle(ctx, prefix) }))
		}
	})
	return errors.Join(errs...)
}

// Free is how much may still be written, judged by the member with the least room: k times that.
func (s *Store) Free(ctx context.Context) (int64, error) {
	if err := s.begin(ctx, true); err != nil {
		return 0, fmt.Errorf("free: %w", err)
	}
	defer s.work.Done()
	v := s.view()
	members := v.writers()
	free, errs := make([]int64, len(members)), make([]error, len(members))
	each(members, func(i int, m *member) {
		if sp, ok := store.As[store.Spacer](m.st); ok {
			free[i], errs[i] = ask(ctx, m, s.opts.ReadDeadline, func(ctx context.Context, _ store.Store) (int64, error) { return sp.Free(ctx) })
			errs[i] = of(m, errs[i])
		} else {
			errs[i] = of(m, errors.ErrUnsupported)
		}
	})
	least, known := int64(0), false
	for i := range members {
		if errs[i] == nil && (!known || free[i] < least) {
			least, known = free[i], true
		}
	}
	if !known {
		return 0, fmt.Errorf("free: %w", errors.Join(errs...))
	}
	return least * int64(v.Data), nil
}

// folder is the prefix of the folder that a name is in.
func folder(name string) string { return name[:strings.LastIndexByte(name, '/')+1] }
