package stripe

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// List yields what the arbiter has, or where it is away any member that has all that was acknowledged, and what a second member
// has besides: so a member that was put back as it had been earlier hides nothing. The listing is taken whole before the first
// object is yielded. Sizes of striped objects are in their records, which are read, some
// at once, and remembered.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := s.begin(ctx, store.ValidPrefix(prefix)); err != nil {
			yield(store.Info{}, fail("list", prefix, err))
			return
		}
		infos, err := s.names(ctx, s.view(), prefix)
		s.work.Done()
		if err != nil {
			yield(store.Info{}, fail("list", prefix, err))
			return
		}
		s.sized(ctx, infos, func(info store.Info, err error) bool { return yield(info, fail("list", prefix, err)) })
	}
}

// listers is how many members are asked for a listing, where there are so many.
const listers = 2

// names lists the records with the names that begin so, from the first members that can.
func (s *Store) names(ctx context.Context, v *view, prefix string) ([]store.Info, error) {
	lost := &LostError{Object: "list of " + prefix, Need: 1}
	members := v.current()
	for len(members) > 0 {
		some := members[:min(len(members), listers)]
		members = members[len(some):]
		lists, errs := make([][]store.Info, len(some)), make([]error, len(some))
		each(some, func(i int, m *member) { lists[i], errs[i] = m.objects(ctx, v, prefix) })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		listed := false
		for i, err := range errs {
			if listed = listed || err == nil; err != nil {
				lost.Causes, lists[i] = append(lost.Causes, of(some[i], err)), nil
			}
		}
		if listed {
			return union(lists), nil
		}
	}
	return nil, lost
}

// union is all that is in any of the lists, each once: as the first one has it.
func union(lists [][]store.Info) []store.Info {
	byName := func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) }
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, byName)
	return slices.CompactFunc(all, func(a, b store.Info) bool { return a.Name == b.Name })
}

// objects lists a member's records. It first asks for something small, so that a member that does not answer is found
// out sooner than a long listing would be.
func (m *member) objects(ctx context.Context, v *view, prefix string) ([]store.Info, error) {
	if _, err := m.stat(ctx, stateName(v.Generation)); err != nil {
		return nil, err
	}
	infos, err := m.list(ctx, prefix)
	kept := infos[:0]
	for _, info := range infos {
		if !reserved(info.Name) {
			kept = append(kept, info)
		}
	}
	return kept, err
}

// sizing is how many records are read at once, and how many objects are sized before they are yielded.
const sizing, sizingBatch = 16, 1024

// sized yields objects with their own sizes instead of their records'.
func (s *Store) sized(ctx context.Context, infos []store.Info, yield func(store.Info, error) bool) {
	for len(infos) > 0 {
		batch := infos[:min(len(infos), sizingBatch)]
		infos = infos[len(batch):]
		errs := s.sizes(ctx, batch)
		for i, info := range batch {
			if errors.Is(errs[i], fs.ErrNotExist) {
				continue // removed since
			}
			if errs[i] != nil {
				yield(store.Info{}, errs[i])
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (s *Store) sizes(ctx context.Context, batch []store.Info) []error {
	errs := make([]error, len(batch))
	var wg sync.WaitGroup
	sem := make(chan struct{}, sizing)
	for i := range batch {
		info := &batch[i]
		if info.Size >= recordInline {
			info.Size -= recordInline
			continue
		}
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			r, err := s.lookup(ctx, info.Name)
			if errs[i] = err; err == nil {
				info.Size = r.Length
			}
		})
	}
	wg.Wait()
	return errs
}
