package queue

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
)

// memoryTable is a table of a Memory, whose lock it shares.
type memoryTable struct {
	q       *Memory
	entries map[string]Entry // also those that are gone, so that a watcher sees it
}

func (q *Memory) Table(ctx context.Context, name string) (Table, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(ctx); err != nil {
		return nil, err
	}
	t := q.tables[name]
	if t == nil {
		t = &memoryTable{q: q, entries: map[string]Entry{}}
		q.tables[name] = t
	}
	return t, nil
}

func (t *memoryTable) Get(ctx context.Context, key string) (Entry, error) {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if err := t.q.usable(ctx); err != nil {
		return Entry{}, err
	}
	e, ok := t.entries[key]
	if !ok || e.Gone {
		return Entry{}, fmt.Errorf("key %q: %w", key, fs.ErrNotExist)
	}
	e.Value = slices.Clone(e.Value)
	return e, nil
}

func (t *memoryTable) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return t.set(ctx, key, value, func(e Entry, ok bool) bool { return !ok || e.Gone })
}

func (t *memoryTable) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return t.set(ctx, key, value, func(e Entry, ok bool) bool { return ok && !e.Gone && e.Revision == revision })
}

// set changes an entry on a condition.
func (t *memoryTable) set(ctx context.Context, key string, value []byte, may func(Entry, bool) bool) (uint64, error) {
	if err := CheckEntry(key, value); err != nil {
		return 0, err
	}
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if err := t.q.usable(ctx); err != nil {
		return 0, err
	}
	if e, ok := t.entries[key]; !may(e, ok) {
		return 0, fmt.Errorf("key %q: %w", key, ErrConflict)
	}
	t.q.last++
	t.entries[key] = Entry{Key: key, Value: slices.Clone(value), Revision: t.q.last}
	t.q.change()
	return t.q.last, nil
}

func (t *memoryTable) Delete(ctx context.Context, key string, revision uint64) error {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if err := t.q.usable(ctx); err != nil {
		return err
	}
	e, ok := t.entries[key]
	if !ok || e.Gone {
		return nil
	}
	if e.Revision != revision {
		return fmt.Errorf("key %q: %w", key, ErrConflict)
	}
	t.q.last++
	t.entries[key] = Entry{Key: key, Revision: t.q.last, Gone: true}
	t.q.change()
	return nil
}

// since are the entries that changed after a revision, in order.
func (t *memoryTable) since(ctx context.Context, prefix string, after uint64, gone bool) (list []Entry, last uint64, changed chan struct{}, err error) {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if err := t.q.usable(ctx); err != nil {
		return nil, 0, nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(t.entries)) {
		if e := t.entries[key]; e.Revision > after && Under(key, prefix) && (gone || !e.Gone) {
			e.Value = slices.Clone(e.Value)
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int { return int(int64(a.Revision) - int64(b.Revision)) })
	return list, t.q.last, t.q.changed, nil
}

func (t *memoryTable) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		list, _, _, err := t.since(ctx, prefix, 0, false)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (t *memoryTable) Watch(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for seen, first := uint64(0), true; ; first = false {
			list, last, changed, err := t.since(ctx, prefix, seen, !first)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
			}
			seen = last
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}
