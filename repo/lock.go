package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// LockPoint has the store keep everything that a point is restored from until the given time: its packs, its manifest, the
// header, the slots, the checkpoints, and the log, in all their places. It returns how many objects that are. Locks are only
// ever extended, so that it may be called again, and for points that share packs; on nil every lock was read back.
//
// Caches (index objects, heartbeats) are not locked: nothing is lost with them.
//
// Errors: errors.ErrUnsupported where the store has no locks, fs.ErrInvalid for a time that has passed by the store's clock,
// *ErrCorrupt where something that the point needs is not there: then nothing was locked.
func (r *Repository) LockPoint(ctx context.Context, point string, until time.Time) (objects int, err error) {
	locker, ok := store.As[store.Locker](r.st)
	if !ok {
		return 0, fmt.Errorf("lock point %s: the store keeps no locks: %w", point, errors.ErrUnsupported)
	}
	if now, err := locker.Now(ctx); err != nil || !now.Before(until) {
		if err == nil {
			err = fs.ErrInvalid
		}
		return 0, fmt.Errorf("lock point %s until %s: %w", point, until.Format(time.RFC3339), err)
	}
	m, err := r.find(ctx, point)
	if err != nil {
		return 0, err
	}
	unpin, strands, err := r.pin(ctx, m.Point)
	if err != nil {
		return 0, err
	}
	if strands != "" {
		r.warnStrands(m.Point, strands)
	}
	defer func() { err = errors.Join(err, unpin()) }()
	names, err := r.objectsOf(ctx, m)
	if err != nil {
		return 0, err
	}
	records, err := r.listPlaces(ctx, "log/")
	if err != nil {
		return 0, err
	}
	names = append(names, records...)
	if err := store.LockAll(ctx, locker, names, until); err != nil {
		return 0, fmt.Errorf("lock point %s: %w", point, err)
	}
	return len(names), nil
}

// vitalNames are the objects in three places that lead to a point, but for the log's, as far as they are there. A place that is missing is for
// repair to fill, and the next call locks it.
func (r *Repository) vitalNames(ctx context.Context, m *manifest) ([]string, error) {
	var names []string
	for _, name := range []string{headerName, manifestName(m.Lease, m.Point)} {
		for _, place := range copiesOf(name) {
			switch _, err := r.st.Stat(ctx, place); {
			case err == nil:
				names = append(names, place)
			case !errors.Is(err, fs.ErrNotExist):
				return nil, err
			}
		}
	}
	for _, folder := range []string{"slot/", "checkpoint/"} {
		list, err := r.listPlaces(ctx, folder)
		if err != nil {
			return nil, err
		}
		names = append(names, list...)
	}
	return names, nil
}

// packsNeeded are the packs that a point's content lies in: of content in several packs all those not known to be bad.
func (r *Repository) packsNeeded(ctx context.Context, m *manifest) (map[packRef]bool, error) {
	x, err := r.indexFor(ctx, m.Lease)
	if err != nil {
		return nil, err
	}
	w := &needs{r: r, idx: x, packs: map[packRef]bool{}, pages: map[pipe.ID]bool{}}
	for i := range m.Disks {
		d := &m.Disks[i]
		w.shape = r.shapeOf(d)
		clear(w.pages)
		if err := w.entry(ctx, entry(d.Root), w.shape.height, 0); err != nil {
			return nil, err
		}
	}
	for _, b := range m.Blobs {
		for _, id := range b.Chunks {
			if err := w.content(ctx, object.TypeChunk, pipe.ID(id)); err != nil {
				return nil, err
			}
		}
	}
	return w.packs, nil
}

// needs gathers the packs of a point.
type needs struct {
	r     *Repository
	idx   *index
	shape shape
	packs map[packRef]bool
	pages map[pipe.ID]bool // of one disk that were walked
}

// entry: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *needs) entry(ctx context.Context, e entry, level int, first int64) error {
	if w.shape.blocks == 0 || e.kind != pipe.Data {
		return nil
	}
	if level < 0 {
		return w.content(ctx, object.TypeBlock, e.id)
	}
	if w.pages[e.id] {
		return nil
	}
	w.pages[e.id] = true
	if err := w.content(ctx, object.TypePage, e.id); err != nil {
		return err
	}
	b, err := w.r.content(ctx, w.idx, object.TypePage, e.id)
	if err != nil {
		return err
	}
	p, err := decodePage(b, level, w.shape.entries(level, first))
	if err != nil {
		return &ErrCorrupt{Object: "page " + e.id.String(), Reason: "it is not a page of this tree", Err: err}
	}
	for i := range p.entries {
		if err := w.entry(ctx, p.entries[i], level-1, first+int64(i)*w.shape.span(level)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// content adds the packs of one piece of content, and those of what it is assembled from.
func (w *needs) content(ctx context.Context, typ uint8, id pipe.ID) error {
	places, err := w.places(typ, id)
	if err != nil {
		return err
	}
	if len(places) == 0 {
		return &ErrCorrupt{Object: fmt.Sprintf("content %s", id), Reason: "no pack holds it"}
	}
	for _, l := range places {
		pack := w.idx.pack(l.pack)
		w.packs[pack] = true
		if l.whole() {
			continue
		}
		recipe, err := w.r.fetchRecipe(ctx, pack, id, l)
		if err != nil {
			return err
		}
		for _, source := range recipe.sources() {
			if err := w.wholeBlock(source); err != nil {
				return err
			}
		}
	}
	return nil
}

// places are where content lies, but for what is known to be bad.
func (w *needs) places(typ uint8, id pipe.ID) (list []location, err error) {
	w.idx.mu.RLock()
	defer w.idx.mu.RUnlock()
	err = w.idx.all(id, func(l location) bool {
		if l.typ == typ && w.idx.rank(id, l) > rankBad {
			list = append(list, l)
		}
		return true
	})
	return list, err
}

// wholeBlock adds the packs of a block that another is assembled from; it is never assembled itself.
func (w *needs) wholeBlock(id pipe.ID) error {
	places, err := w.places(object.TypeBlock, id)
	found := false
	for _, l := range places {
		if l.whole() {
			w.packs[w.idx.pack(l.pack)], found = true, true
		}
	}
	if err == nil && !found {
		return &ErrCorrupt{Object: "block " + id.String(), Reason: "another is assembled from it, and no pack holds it"}
	}
	return err
}
