package repo

import (
	"context"
	"errors"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// points walks every point's trees.
func (v *verification) points(ctx context.Context, list []committed) error {
	v.blinded()
	v.needed = make([]bool, len(v.idx.packs))
	v.told = v.said()
	missing := map[packRef]bool{}
	for _, c := range list {
		m, err := v.r.readManifest(ctx, c)
		if errors.Is(err, ErrForgotten) {
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.affect(Affected{Point: c.point.String()})
			if isFailure(err) {
				v.blind = true
				if err := v.unreadable(manifestName(c.lease, c.point), err); err != nil {
					return err
				}
			}
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
			for i, id := range b.Chunks {
				n := min(int64(v.r.header.BlockSize), b.Size-int64(i)*int64(v.r.header.BlockSize))
				if !v.have(pipe.ID(id), object.TypeChunk, max(n, 0), missing) {
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

// have reports whether content of a length is in a pack, and not known to be bad. Zero is any length.
func (v *verification) have(id pipe.ID, typ uint8, plain int64, missing map[packRef]bool) bool {
	fits := func(l location) bool { return l.typ == typ && (plain == 0 || int64(l.plain) == plain) }
	loc, ok := v.place(id, fits, missing)
	if !ok {
		v.lacks(id, typ, plain)
		return false
	}
	good := true
	if !loc.whole() {
		for _, need := range v.needs[badPlace{id, loc.pack}] {
			good = v.haveWhole(need, missing) && good
		}
	}
	if !good {
		v.lacks(id, typ, plain)
	}
	return good
}

// haveWhole is have for a block that an assembled one needs: one which another recipe cannot stand for.
func (v *verification) haveWhole(id pipe.ID, missing map[packRef]bool) bool {
	_, ok := v.place(id, func(l location) bool { return l.typ == object.TypeBlock && l.whole() }, missing)
	if !ok {
		v.lacks(id, object.TypeBlock, 0)
	}
	return ok
}

// place finds where content is, and notes that its pack is needed: if there is any, one that is whole.
func (v *verification) place(id pipe.ID, fits func(location) bool, missing map[packRef]bool) (location, bool) {
	loc, found, good, err := v.idx.find(id, fits)
	if err != nil || !found {
		if p, ok := v.absent[id]; ok {
			missing[p] = true
		}
		return loc, false
	}
	if good && len(v.hurt) > 0 {
		loc = v.unhurt(id, loc, fits)
	}
	v.needed[loc.pack] = true
	return loc, good
}

// unhurt is the place of content in a pack that is whole, if there is one. Where a damaged pack claims to have it, and nobody
// has been told otherwise, a repair writes it again: the log is then told that all places of it are bad that there are now.
func (v *verification) unhurt(id pipe.ID, loc location, fits func(location) bool) location {
	v.idx.mu.RLock()
	defer v.idx.mu.RUnlock()
	whole, claimed := loc, false
	_ = v.idx.all(id, func(l location) bool {
		switch p := v.idx.packs[l.pack]; {
		case v.hurt[p]:
			claimed = claimed || v.told[id] <= p.Lease
		case v.hurt[v.idx.packs[whole.pack]] && fits(l) && v.idx.rank(id, l) == rankGood:
			whole = l
		}
		return true
	})
	if v.hurt[v.idx.packs[whole.pack]] || claimed {
		v.rescue[id] = whole
	}
	return whole
}

// lacking is content that points need and that no pack has.
type lacking struct {
	typ   uint8
	plain int64 // its length; 0: not known
}

// maxLacking bounds what is remembered of it. A repair takes the rest in its next round.
const maxLacking = 1 << 20

func (v *verification) lacks(id pipe.ID, typ uint8, plain int64) {
	if v.blind || v.doubtful[id] {
		return // it may be there
	}
	if old, ok := v.lack[id]; len(v.lack) < maxLacking || ok {
		v.lack[id] = lacking{typ, max(plain, old.plain)}
	}
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

// treeCheck walks one disk's tree. A page is walked once: points share most pages, and a tree of few pages can stand for
// more blocks than anybody could ever look at.
type treeCheck struct {
	v       *verification
	m       *manifest
	disk    *manifestDisk
	shape   shape
	missing map[packRef]bool
	bad     []span // found so far below the pages that are being walked
}

// check: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *treeCheck) check(ctx context.Context, e entry, level int, first int64) (sound bool, err error) {
	if e.kind != pipe.Data {
		return true, nil
	}
	if level < 0 {
		n := min(w.shape.blockSize, w.shape.size-first*w.shape.blockSize)
		if w.v.have(e.id, object.TypeBlock, n, w.missing) {
			return true, nil
		}
		w.affect(first, 1)
		return false, nil
	}
	covered := w.shape.covered(level+1, first)
	key := seenPage{e.id, level, min(covered*w.shape.blockSize, w.shape.size-first*w.shape.blockSize)}
	state := w.v.pages[key]
	if state == nil {
		if state, err = w.walk(ctx, e, level, first, covered); err != nil {
			return false, err
		}
		w.v.pages[key] = state
	} else {
		for _, s := range state.bad {
			w.affect(first+s.from, s.n)
		}
	}
	if state.sound && state.total != e.sums && !w.v.miscounted[e.id] {
		w.v.miscounted[e.id] = true
		w.v.damage(Damage{Object: "page " + e.id.String(), Reason: "its parent counts its blocks wrongly"})
	}
	return state.sound, nil
}

// walk checks a page that was not seen in such a place.
func (w *treeCheck) walk(ctx context.Context, e entry, level int, first, covered int64) (*pageState, error) {
	p, err := w.page(ctx, e, level, first)
	if err != nil {
		return nil, err
	}
	mark := len(w.bad)
	state := &pageState{sound: p != nil}
	if p == nil {
		w.affect(first, covered)
	} else {
		for i := range p.entries {
			at := first + int64(i)*w.shape.span(level)
			sound, err := w.check(ctx, p.entries[i], level-1, at)
			if err != nil {
				return nil, err
			}
			state.sound = state.sound && sound
			state.total.add(sumsOf(p.entries[i], level, w.shape.covered(level, at)))
		}
	}
	bad := mergeSpans(w.bad[mark:])
	if len(bad) > maxSpans {
		bad = []span{{first, covered}}
	}
	w.bad = append(w.bad[:mark], bad...)
	for _, s := range bad {
		state.bad = append(state.bad, span{s.from - first, s.n})
	}
	return state, nil
}

// seenPage is a page in a place: what is sound in one is not in another where the disk ends earlier, or at another level.
type seenPage struct {
	id    pipe.ID
	level int
	bytes int64 // of the disk below it
}

// pageState is what is known of a page and all that is below it.
type pageState struct {
	sound bool
	total sums
	bad   []span // relative to the page's first block
}

// span is a range of blocks.
type span struct{ from, n int64 }

// maxSpans bounds what is remembered of a page: enough for every second entry of a page of blocks. Where more is bad, all
// of it counts as affected where it is met again.
const maxSpans = 128

// mergeSpans joins neighbours, in place; the spans are ascending.
func mergeSpans(list []span) []span {
	out := list[:0]
	for _, s := range list {
		if n := len(out); n > 0 && out[n-1].from+out[n-1].n == s.from {
			out[n-1].n += s.n
			continue
		}
		out = append(out, s)
	}
	return out
}

func (w *treeCheck) page(ctx context.Context, e entry, level int, first int64) (*page, error) {
	if !w.v.have(e.id, object.TypePage, 0, w.missing) {
		return nil, nil
	}
	var b []byte
	err := steadily(ctx, "page "+e.id.String(), func() (err error) {
		b, err = w.v.r.content(ctx, w.v.idx, object.TypePage, e.id)
		return err
	})
	if isUnread(err) {
		w.v.blind = true
		return nil, w.v.unreadable("page "+e.id.String(), err)
	}
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
	w.bad = append(w.bad, span{block, n})
	off := block * w.shape.blockSize
	w.v.affect(Affected{
		Point: w.m.Point.String(), VM: w.m.VM, Disk: w.disk.Key,
		Offset: off, Length: min(n*w.shape.blockSize, w.shape.size-off),
	})
}
