package repo

import (
	"context"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// points walks every point's trees.
func (v *verification) points(ctx context.Context, list []committed) error {
	v.needed = make([]bool, len(v.idx.packs))
	missing := map[packRef]bool{}
	for _, c := range list {
		m, err := v.r.readManifest(ctx, c)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.affect(Affected{Point: c.point.String()})
			continue // the damage itself was found among the vitals
		}
		for i := range m.Disks {
			d := &m.Disks[i]
			w := &treeCheck{v: v, m: m, disk: d, shape: v.r.shapeOf(d), missing: missing}
			if _, err := w.check(ctx, entry(d.Root), w.shape.height, 0); err != nil {
				return err
			}
		}
		for _, b := range m.Blobs {
			for _, id := range b.Chunks {
				if !v.have(pipe.ID(id), object.TypeChunk, missing) {
					v.affect(Affected{Point: m.Point.String(), VM: m.VM, Disk: "blob " + b.Name, Length: b.Size})
				}
			}
		}
	}
	for p := range missing {
		v.damage(Damage{Object: p.name(), Reason: "missing"})
	}
	return nil
}

// have reports whether content is in a pack, and not known to be bad.
func (v *verification) have(id pipe.ID, typ uint8, missing map[packRef]bool) bool {
	loc, ok, err := v.idx.lookup(id)
	_, good, _ := v.idx.reusable(id)
	if err != nil || !ok || loc.typ != typ {
		if p, ok := v.absent[id]; ok {
			missing[p] = true
		}
		return false
	}
	v.needed[loc.pack] = true
	if !loc.whole() {
		for _, need := range v.needs[badPlace{id, loc.pack}] {
			good = v.haveWhole(need, missing) && good
		}
	}
	return good
}

// haveWhole is have for a block that a recipe needs, which another recipe cannot stand for.
func (v *verification) haveWhole(id pipe.ID, missing map[packRef]bool) bool {
	loc, found, good, err := v.idx.whole(id)
	if err != nil || !found {
		if p, ok := v.absent[id]; ok {
			missing[p] = true
		}
		return false
	}
	v.needed[loc.pack] = true
	return good
}

func (v *verification) affect(a Affected) {
	if n := len(v.rep.Affected); n > 0 {
		last := &v.rep.Affected[n-1]
		if last.Point == a.Point && last.Disk == a.Disk && last.Offset+last.Length == a.Offset && a.Length > 0 {
			last.Length += a.Length
			return
		}
	}
	if len(v.rep.Affected) == maxAffected {
		v.note("more ranges are affected than are listed")
	}
	if len(v.rep.Affected) < maxAffected {
		v.rep.Affected = append(v.rep.Affected, a)
	}
}

// treeCheck walks one disk's tree. A subtree that was found sound once is not walked again: points share most pages.
type treeCheck struct {
	v       *verification
	m       *manifest
	disk    *manifestDisk
	shape   shape
	missing map[packRef]bool
}

// check: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *treeCheck) check(ctx context.Context, e entry, level int, first int64) (sound bool, err error) {
	if e.kind != pipe.Data {
		return true, nil
	}
	if level < 0 {
		loc, ok, err := w.v.idx.lookup(e.id)
		if err != nil {
			return false, err
		}
		n := min(w.shape.blockSize, w.shape.size-first*w.shape.blockSize)
		if w.v.have(e.id, object.TypeBlock, w.missing) && ok && int64(loc.plain) == n {
			return true, nil
		}
		w.affect(first, 1)
		return false, nil
	}
	if w.v.pages[e.id] {
		return true, nil
	}
	p, err := w.page(ctx, e, level, first)
	if err != nil {
		return false, err
	}
	if p == nil {
		w.affect(first, w.shape.covered(level+1, first))
		return false, nil
	}
	sound = true
	var total sums
	for i := range p.entries {
		at := first + int64(i)*w.shape.span(level)
		ok, err := w.check(ctx, p.entries[i], level-1, at)
		if err != nil {
			return false, err
		}
		sound = sound && ok
		total.add(sumsOf(p.entries[i], level, w.shape.covered(level, at)))
	}
	if total != e.sums {
		w.v.damage(Damage{Object: "page " + e.id.String(), Reason: "its parent counts its blocks wrongly"})
	}
	if sound {
		w.v.pages[e.id] = true
	}
	return sound, nil
}

func (w *treeCheck) page(ctx context.Context, e entry, level int, first int64) (*page, error) {
	if !w.v.have(e.id, object.TypePage, w.missing) {
		return nil, nil
	}
	b, err := w.v.r.content(ctx, w.v.idx, object.TypePage, e.id)
	if err == nil {
		var p *page
		if p, err = decodePage(b, level, w.shape.entries(level, first)); err == nil {
			return p, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.v.damage(Damage{Object: "page " + e.id.String(), Reason: err.Error()})
	return nil, nil
}

func (w *treeCheck) affect(block, n int64) {
	off := block * w.shape.blockSize
	w.v.affect(Affected{
		Point: w.m.Point.String(), VM: w.m.VM, Disk: w.disk.Key,
		Offset: off, Length: min(n*w.shape.blockSize, w.shape.size-off),
	})
}
