package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// caches makes index and anchor objects of this scope again that are damaged. They are no authority: an index object comes
// from the packs' own tables, as new objects beside it, and only then the damaged one goes. Anchors that cannot be
// mended are dropped: they say where content might be found again, and nothing is lost with them.
func (m *mending) caches(ctx context.Context, v *verification) error {
	for _, name := range slices.Sorted(maps.Keys(v.caches)) {
		kind, ref, ok := parseObject(name)
		if !ok || !m.r.ofScope(ref.Lease, v.idx.scope) {
			continue
		}
		err := m.cache(ctx, v, name, kind, ref)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			v.note(fmt.Sprintf("%s could not be made again: %v", name, err))
			continue
		}
		m.wrote++
		delete(v.caches, name)
		if !slices.Contains(m.rep.Repaired, name) {
			m.rep.Repaired = append(m.rep.Repaired, name)
		}
	}
	return nil
}

func (m *mending) cache(ctx context.Context, v *verification, name string, kind uint8, ref objectRef) error {
	o, done, err := m.inPlace(ctx, v, name, kind, ref)
	if done || err != nil {
		return err
	}
	if kind == kindIndex {
		if err := m.reindex(ctx, v, ref.Lease, toldBy(o, ref.Lease)); err != nil {
			return err
		}
	}
	if err := m.r.st.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inPlace mends an object from its own parity, where the store can replace it in one step. Where it cannot, o is what the
// object says, nil if it cannot be mended.
func (m *mending) inPlace(ctx context.Context, v *verification, name string, kind uint8, ref objectRef) (o *object.Object, done bool, err error) {
	file, err := readSteady(ctx, m.r.st, name, maxPackFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	fixed, _, err := cell.Repair(file)
	if err != nil {
		return nil, false, nil
	}
	want := cell.Ident{Kind: kind, Repo: m.r.header.ID, Object: ref.ID}
	o, _, err = object.OpenFile(slices.Clone(fixed), want, m.r.keys.indexKeys(v.idx.scope))
	if err != nil {
		return nil, false, nil
	}
	mender, ok := store.As[store.Mender](m.r.st)
	if !ok || string(fixed) == string(file) { // whole, and what it says is wrong
		return o, false, nil
	}
	return o, true, mender.Mend(ctx, name, fixed)
}

// toldBy is what an index object says of the packs of its own lease.
func toldBy(o *object.Object, lease uint64) map[packRef]packTable {
	told := map[packRef]packTable{}
	if o == nil {
		return told
	}
	for i := range o.Entries() {
		doc, err := o.Content(i)
		if err != nil {
			continue
		}
		if t, err := decodePackTable(doc); err == nil && t.ref.Lease == lease {
			told[t.ref] = t
		}
	}
	return told
}

// reindex writes index objects for the packs of a lease, from their own tables. Of a pack that has lost its own, what was
// told of it is kept.
func (m *mending) reindex(ctx context.Context, v *verification, lease uint64, told map[packRef]packTable) error {
	var tables []packTable
	entries := 0
	for _, p := range packsBelow(v, lease) {
		t, err := m.table(ctx, p, v.sizes[p])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if isFailure(err) {
			return err
		}
		if old, ok := told[p]; err != nil && ok {
			t = old
		} else if err != nil {
			continue
		}
		tables = append(tables, t)
		if entries += len(t.entries); entries >= indexChunk {
			if err := m.writeIndex(ctx, lease, tables); err != nil {
				return err
			}
			tables, entries = nil, 0
		}
	}
	return m.writeIndex(ctx, lease, tables)
}

func packsBelow(v *verification, lease uint64) (list []packRef) {
	for p := range v.sizes {
		if p.Lease == lease {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b packRef) int { return strings.Compare(a.name(), b.name()) })
	return list
}

// table reads a pack's own table, with the length of its stream.
func (m *mending) table(ctx context.Context, p packRef, size int64) (packTable, error) {
	read := func(off, n int) ([]byte, error) {
		b := make([]byte, n)
		got, err := m.r.st.ReadAt(ctx, p.name(), b, int64(off))
		if got > 0 {
			err = nil
		}
		return b[:got], storeError(err)
	}
	t, err := object.ReadTable(read, size, cell.Ident{Kind: p.Kind, Repo: m.r.header.ID, Object: p.ID}, m.r.keys.unwraps)
	if err != nil {
		return packTable{}, err
	}
	return packTable{ref: p, stream: t.Geometry.Stream, entries: t.Entries}, nil
}

func (m *mending) writeIndex(ctx context.Context, lease uint64, tables []packTable) error {
	if len(tables) == 0 {
		return nil
	}
	id, file, err := m.r.sealIndex(tables)
	if err != nil {
		return err
	}
	return m.r.vital.createFirst(ctx, indexName(objectRef{lease, id}), file)
}
