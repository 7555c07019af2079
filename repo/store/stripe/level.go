package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo/store"
)

// workers is how many objects are worked on at once where a whole set is gone through.
const workers = 8

// level gives every target the records that any of the sources has. It returns how many it wrote.
func (s *Store) level(ctx context.Context, v *view, prefix string, targets []*member, sources ...*member) (int, error) {
	if len(sources) == 0 {
		arb, err := v.arbiter()
		if err != nil {
			return 0, err
		}
		sources = []*member{arb}
	}
	have, err := holders(ctx, v, prefix, append(slices.Clone(sources), targets...))
	if err != nil {
		return 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	wrote := 0
	for _, name := range sortedNames(have) {
		from := first(sources, have[name])
		lacking := slices.DeleteFunc(slices.Clone(targets), func(m *member) bool { return have[name][m.id] })
		if from == nil || len(lacking) == 0 {
			continue
		}
		wrote += len(lacking)
		g.Go(func() error { return s.complete(ctx, v, name, sources, lacking) })
	}
	return wrote, g.Wait()
}

// holders lists members, and says who has what.
func holders(ctx context.Context, v *view, prefix string, members []*member) (map[string]map[string]bool, error) {
	slices.SortFunc(members, func(a, b *member) int { return strings.Compare(a.id, b.id) })
	members = slices.CompactFunc(members, func(a, b *member) bool { return a.id == b.id })
	lists, errs := make([][]store.Info, len(members)), make([]error, len(members))
	each(members, func(i int, m *member) {
		lists[i], errs[i] = m.objects(ctx, v, prefix)
		errs[i] = of(m, errs[i])
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	have := map[string]map[string]bool{}
	for i, m := range members {
		for _, info := range lists[i] {
			if have[info.Name] == nil {
				have[info.Name] = map[string]bool{}
			}
			have[info.Name][m.id] = true
		}
	}
	return have, nil
}

func sortedNames[T any](m map[string]T) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func first(sources []*member, have map[string]bool) *member {
	for _, m := range sources {
		if have[m.id] {
			return m
		}
	}
	return nil
}

// complete copies one record to members that lack it. An object that is removed meanwhile is left removed.
func (s *Store) complete(ctx context.Context, v *view, name string, sources, lacking []*member) error {
	var r *record
	var from *member
	var errs []error
	for _, m := range sources {
		got, err := s.load(ctx, v, m, name)
		if err == nil {
			r, from = got, m
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, of(m, err))
		}
	}
	if r == nil {
		if len(errs) == 0 {
			return nil
		}
		return &LostError{Object: name, Need: 1, Causes: errs}
	}
	raw := r.encode()
	for _, m := range lacking {
		if err := s.copyTo(ctx, v, m, r, raw); err != nil {
			return err
		}
	}
	if v.Arbiter == "" {
		return nil // nobody removes while there is no arbiter
	}
	if _, err := from.stat(ctx, name); errors.Is(err, fs.ErrNotExist) {
		for id, err := range s.drop(ctx, lacking, name) {
			return fmt.Errorf("take back %s on %s: %w", name, id, err)
		}
	}
	return nil
}

func (s *Store) lookups(ctx context.Context, batch []store.Info) ([]*record, []error) {
	list, errs := make([]*record, len(batch)), make([]error, len(batch))
	var g errgroup.Group
	g.SetLimit(sizing)
	for i, info := range batch {
		g.Go(func() error {
			list[i], errs[i] = s.fresh(ctx, info.Name)
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	return list, errs
}

// striped yields the records of striped objects. What is listed as larger than such a record is not read.
func (s *Store) striped(ctx context.Context, v *view) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		infos, err := s.names(ctx, v, "")
		if err != nil {
			yield(nil, err)
			return
		}
		infos = slices.DeleteFunc(infos, func(i store.Info) bool { return i.Size >= recordInline })
		for len(infos) > 0 {
			batch := infos[:min(len(infos), 256)]
			infos = infos[len(batch):]
			list, errs := s.lookups(ctx, batch)
			for i, r := range list {
				if errors.Is(errs[i], fs.ErrNotExist) || errs[i] == nil && !r.Striped {
					continue
				}
				if !yield(r, fail("read", batch[i].Name, errs[i])) {
					return
				}
			}
		}
	}
}
