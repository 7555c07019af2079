package repo

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// unfinished names the unfinished points of a scope, and notes what they need: a prune keeps it, so it is not reclaimable. What one of
// them lacks is no damage: nobody restores it, a prune gives it up, and the session after it reads the source again.
func (v *verification) unfinished(ctx context.Context, s scope) error {
	list, err := v.r.unfinished(ctx)
	if err != nil {
		return err
	}
	for len(v.needed) < len(v.idx.packs) {
		v.needed = append(v.needed, false) // a repair has written packs since
	}
	for _, c := range list {
		if !v.r.ofScope(c.lease, s) {
			continue
		}
		m, err := v.r.readManifest(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			v.note(fmt.Sprintf("unfinished point %s cannot be read, and is given up by the next prune: %v", c.point, err))
			continue
		}
		w := &unfinishedWalk{v: v, seen: map[seenPage]bool{}, missing: map[packRef]bool{}}
		pending := int64(0)
		for i := range m.Disks {
			d := &m.Disks[i]
			for _, p := range d.Pending {
				pending += p[1]
			}
			w.shape = v.r.shapeOf(d)
			if err := w.mark(ctx, entry(d.Root), w.shape.height, 0); err != nil {
				return err
			}
		}
		text := fmt.Sprintf("unfinished point %s of %s, %d bytes of it pending: what a session that broke off has copied, for the next one to go on from", c.point, m.VM, pending)
		if w.lost > 0 {
			text += fmt.Sprintf("; %d blocks or pages of it are damaged or missing, so it is given up by the next prune", w.lost)
		}
		v.note(text)
	}
	return nil
}

// unfinishedWalk goes through the trees of an unfinished point. A page is walked once.
type unfinishedWalk struct {
	v       *verification
	shape   shape
	seen    map[seenPage]bool
	missing map[packRef]bool // nobody asks
	lost    int              // blocks and pages that cannot be had
}

// mark: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *unfinishedWalk) mark(ctx context.Context, e entry, level int, first int64) error {
	if e.kind != pipe.Data {
		return nil
	}
	if level < 0 {
		if !w.has(e.id, object.TypeBlock) {
			w.lost++
		}
		return nil
	}
	key := seenPage{e.id, level, min(w.shape.covered(level+1, first)*w.shape.blockSize, w.shape.size-first*w.shape.blockSize)}
	if w.seen[key] {
		return nil
	}
	w.seen[key] = true
	if !w.has(e.id, object.TypePage) {
		w.lost++
		return nil
	}
	b, err := w.v.r.content(ctx, w.v.idx, object.TypePage, e.id)
	var p *page
	if err == nil {
		p, err = decodePage(b, level, w.shape.entries(level, first))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.lost++
		return nil
	}
	for i := range p.entries {
		if err := w.mark(ctx, p.entries[i], level-1, first+int64(i)*w.shape.span(level)); err != nil {
			return err
		}
	}
	return nil
}

// has notes that the packs of content are needed, and of what an assembled block is put together from.
func (w *unfinishedWalk) has(id pipe.ID, typ uint8) bool {
	loc, ok := w.v.place(id, func(l location) bool { return l.typ == typ }, w.missing)
	if !ok || loc.whole() {
		return ok
	}
	for _, need := range w.v.needs[badPlace{id, loc.pack}] {
		_, there := w.v.place(need, func(l location) bool { return l.typ == object.TypeBlock && l.whole() }, w.missing)
		ok = ok && there
	}
	return ok
}
