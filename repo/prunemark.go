package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// marking finds out what points need of one scope's content. Whatever is needed is a bit over the index's record numbers, so
// that 10⁷ blocks take little more memory than the index does.
//
// The index is its own: made from what is there now, and of a scope that somebody may lie in, from the packs' own tables.
type marking struct {
	p      *prune
	scope  scope
	loaded *loadedIndex
	x      *index

	mark    uint64 // number of the last record that was read: the points up to there are marked
	bad     int    // of the log's bad content then
	present map[packRef]int64

	need  bits // by number of an id's first record
	whole bits // of these: a recipe does not do
	multi bits // ids that are in several places
	pages map[seenRecord]struct{}
	spans map[int64]uint32 // bytes below a page, as they are met

	leaving map[id16]bool // forgotten points that were marked because a lease names them

	asked bool            // all packs were asked for their own tables
	gone  map[uint32]bool // packs that this prune has removed

	proven  bits            // of what is in several places: the one that stays was read
	written map[uint64]bool // leases of packs that this prune has written
	stuck   map[uint32]bool // packs that could not be written anew
}

// seenRecord is a page in a place, as seenPage is, in few bytes.
type seenRecord struct {
	record, span uint32
	level        uint8
}

// bits is a set of numbers.
type bits []uint64

func (b *bits) set(n uint32) {
	for int(n>>6) >= len(*b) {
		*b = append(*b, make([]uint64, max(1024, len(*b)))...)
	}
	(*b)[n>>6] |= 1 << (n & 63)
}

func (b bits) has(n uint32) bool { return int(n>>6) < len(b) && b[n>>6]&(1<<(n&63)) != 0 }

func (p *prune) newMarking(ctx context.Context, s scope) (*marking, error) {
	return p.markingOf(ctx, s, false)
}

func (p *prune) markingOf(ctx context.Context, s scope, asked bool) (*marking, error) {
	m := &marking{
		p: p, scope: s, asked: asked, pages: map[seenRecord]struct{}{}, spans: map[int64]uint32{}, gone: map[uint32]bool{},
		written: map[uint64]bool{}, stuck: map[uint32]bool{}, leaving: map[id16]bool{},
	}
	if err := m.load(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *marking) close() error {
	if m.x == nil {
		return nil
	}
	return m.x.close()
}

// load makes the index, empty.
func (m *marking) load(ctx context.Context) error {
	r := m.p.r
	if err := m.p.whole(ctx); err != nil {
		return err
	}
	x, err := r.newIndex(m.scope)
	if err != nil {
		return err
	}
	m.x = x
	m.loaded = &loadedIndex{idx: x, read: map[string]bool{}}
	r.log.view(func(l *ledger) { m.bad, x.epoch = len(l.bad), l.epoch })
	return nil
}

// refresh brings the index up to date with what is there and with the log.
func (m *marking) refresh(ctx context.Context) error {
	r := m.p.r
	present, err := r.packsOf(ctx, m.scope)
	if err != nil {
		return err
	}
	if m.x.trusted && !m.asked {
		err = r.loadIndex(ctx, m.loaded)
	} else {
		err = r.loadTables(ctx, m.x, present)
	}
	if err != nil {
		return err
	}
	m.present = present
	r.indexMu.Lock()
	err = r.catchUp(m.x)
	r.indexMu.Unlock()
	if errors.Is(err, errStaleIndex) {
		return errMarkAgain
	}
	return err
}

// all marks what the points need that are there, or that leases name.
func (m *marking) all(ctx context.Context) error {
	err := m.since(ctx)
	if _, lost := errors.AsType[*lostContent](err); !lost || m.asked || !m.x.trusted {
		return m.verdict(err)
	}
	// Before anything counts as lost, the packs themselves are asked.
	close := m.x.close()
	again, err := m.p.markingOf(ctx, m.scope, true)
	if err = errors.Join(err, close); err != nil {
		m.x = nil
		return err
	}
	*m = *again
	return m.verdict(m.since(ctx))
}

func (m *marking) verdict(err error) error {
	if lost, ok := errors.AsType[*lostContent](err); ok {
		return lost.why()
	}
	return err
}

// lostContent is content that a point needs and that no pack has.
type lostContent struct {
	typ   uint8
	id    pipe.ID
	point id16
}

func (e *lostContent) Error() string { return e.why().Error() }

func (e *lostContent) why() error {
	return &ErrCorrupt{Object: contentName(e.typ) + " " + e.id.String(), Reason: fmt.Sprintf("point %s needs it, and no pack has it: nothing is removed", e.point)}
}

func contentName(typ uint8) string {
	switch typ {
	case object.TypePage:
		return "page"
	case object.TypeChunk:
		return "chunk"
	}
	return "block"
}

// since marks the points that have come since the last call: at first all. The log is read before anything else: whatever a
// point of it needs was durable before its commit.
func (m *marking) since(ctx context.Context) error {
	r := m.p.r
	if err := m.p.whole(ctx); err != nil {
		return err
	}
	var list []committed
	var upTo uint64
	r.log.view(func(l *ledger) {
		list, upTo = l.needed(), l.n
		for _, c := range l.stillLeaving() {
			m.leaving[c.point] = true
		}
	})
	if err := m.refresh(ctx); err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(c committed) bool { return c.n <= m.mark || !r.ofScope(c.lease, m.scope) })
	for i, c := range list {
		m.p.tell("mark", int64(i), int64(len(list)))
		man, err := r.readManifest(ctx, c)
		if err == nil {
			err = m.point(ctx, man)
		}
		if c.unfinished && m.isLost(err) {
			err = m.p.giveUp(ctx, c, err)
		}
		if err != nil {
			return err
		}
	}
	m.mark = upTo
	return nil
}

// isLost reports whether something is damaged or missing for good.
func (m *marking) isLost(err error) bool {
	_, lost := errors.AsType[*lostContent](err)
	return isCorrupt(err) || lost && (m.asked || !m.x.trusted)
}

// giveUp lets a damaged unfinished point go: nobody restores it, so it holds up no prune. Who builds on it by now has a lease
// that is older than any tombstone of this prune.
func (p *prune) giveUp(ctx context.Context, c committed, why error) error {
	p.r.warn(fmt.Sprintf("unfinished point %s is damaged, and is given up: %v", c.point, why))
	if p.opts.DryRun {
		return nil
	}
	err := p.r.Forget(ctx, []string{c.point.String()}, "unfinished, and damaged")
	if errors.Is(err, fs.ErrNotExist) { // it went, and somebody still builds on it
		return nil
	}
	return err
}

func (m *marking) point(ctx context.Context, man *manifest) error {
	for i := range man.Disks {
		d := &man.Disks[i]
		w := &markWalk{m: m, point: man.Point, shape: m.p.r.shapeOf(d)}
		if err := w.entry(ctx, entry(d.Root), w.shape.height, 0); err != nil {
			return err
		}
	}
	for _, b := range man.Blobs {
		for _, id := range b.Chunks {
			if _, _, err := m.content(ctx, man.Point, object.TypeChunk, pipe.ID(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// markWalk walks one disk's tree.
type markWalk struct {
	m     *marking
	point id16
	shape shape
}

// entry: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *markWalk) entry(ctx context.Context, e entry, level int, first int64) error {
	if e.kind != pipe.Data {
		return nil
	}
	if level < 0 {
		_, _, err := w.m.content(ctx, w.point, object.TypeBlock, e.id)
		return err
	}
	n, ok, err := w.m.content(ctx, w.point, object.TypePage, e.id)
	if err != nil || !ok {
		return err
	}
	below := min(w.shape.covered(level+1, first)*w.shape.blockSize, w.shape.size-first*w.shape.blockSize)
	seen := seenRecord{n, w.m.span(below), uint8(level)}
	if _, ok := w.m.pages[seen]; ok {
		return nil
	}
	b, err := w.m.p.r.content(ctx, w.m.x, object.TypePage, e.id)
	if err != nil {
		return fmt.Errorf("point %s: %w", w.point, err)
	}
	pg, err := decodePage(b, level, w.shape.entries(level, first))
	if err != nil {
		return &ErrCorrupt{Object: "page " + e.id.String(), Reason: fmt.Sprintf("point %s needs it, and it is not a page of its tree", w.point), Err: err}
	}
	for i := range pg.entries {
		if err := w.entry(ctx, pg.entries[i], level-1, first+int64(i)*w.shape.span(level)); err != nil {
			return err
		}
	}
	w.m.pages[seen] = struct{}{}
	return ctx.Err()
}

// span is a small number for a length.
func (m *marking) span(bytes int64) uint32 {
	n, ok := m.spans[bytes]
	if !ok {
		n = uint32(len(m.spans))
		m.spans[bytes] = n
	}
	return n
}

// content marks one piece of content, and for an assembled block what it is made of. ok says that it is anywhere.
func (m *marking) content(ctx context.Context, point id16, typ uint8, id pipe.ID) (n uint32, ok bool, err error) {
	n, ok, err = m.x.recordOf(id)
	if err != nil {
		return 0, false, err
	}
	if !ok {
		if m.p.opts.Lost && typ != object.TypePage && (m.asked || !m.x.trusted) {
			return 0, false, nil
		}
		return 0, false, &lostContent{typ, id, point}
	}
	if m.need.has(n) {
		return n, true, nil
	}
	if typ == object.TypeBlock {
		if err := m.sources(ctx, point, id); err != nil {
			return 0, false, err
		}
	}
	m.need.set(n)
	return n, true, nil
}

// sources marks what a block is made of, where no whole one is as good as the recipe.
func (m *marking) sources(ctx context.Context, point id16, id pipe.ID) error {
	best, _, _, err := m.x.find(id, func(location) bool { return true })
	if err != nil || best.whole() {
		return err
	}
	rank := m.rank(id, best)
	var recipes []location
	whole := false
	m.x.mu.RLock()
	err = m.x.all(id, func(l location) bool {
		if l.whole() {
			whole = whole || m.x.rank(id, l) >= rank
		} else {
			recipes = append(recipes, l)
		}
		return true
	})
	m.x.mu.RUnlock()
	if err != nil || whole {
		return err
	}
	for _, l := range recipes {
		if err := m.recipe(ctx, point, id, l); err != nil {
			return err
		}
	}
	return nil
}

func (m *marking) rank(id pipe.ID, l location) int {
	m.x.mu.RLock()
	defer m.x.mu.RUnlock()
	return m.x.rank(id, l)
}

func (m *marking) recipe(ctx context.Context, point id16, id pipe.ID, l location) error {
	rec, err := m.p.r.fetchRecipe(ctx, m.x.pack(l.pack), id, l)
	if err != nil {
		if ctx.Err() != nil || isFailure(err) {
			return err
		}
		if m.rank(id, l) == rankBad { // known, and nothing is given up for it
			return nil
		}
		return &ErrCorrupt{Object: m.x.pack(l.pack).name(), Reason: fmt.Sprintf("point %s needs block %s, and its recipe cannot be read", point, id), Err: err}
	}
	for _, from := range rec.sources() {
		n, ok, err := m.x.recordOf(from)
		if err != nil {
			return err
		}
		if !ok {
			if m.p.opts.Lost && (m.asked || !m.x.trusted) {
				continue
			}
			return &lostContent{object.TypeBlock, from, point}
		}
		m.need.set(n)
		m.whole.set(n)
	}
	return nil
}

// unreadable are the packs of which not even the table can be read.
func (m *marking) unreadable() (list []packRef) {
	for ref := range m.present {
		if !m.x.has(ref) {
			list = append(list, ref)
		}
	}
	return list
}

// ruined reports whether nothing can be had any more of a pack whose table cannot be read: it has lost more cells than its
// parity mends. One that only has no key for us may be whole.
func (m *marking) ruined(ctx context.Context, ref packRef) (bool, error) {
	file, err := readAll(ctx, m.p.r.st, ref.name(), maxPackFile)
	if err != nil {
		if isFailure(err) || ctx.Err() != nil {
			return false, err
		}
		return false, nil
	}
	_, _, _, err = cell.Decode(file)
	return err != nil, nil
}

// settledLeases are those of packs that may go, as far as the log that was read for the mark says.
func (m *marking) mayGo(refs []packRef) (out []packRef) {
	m.p.r.log.view(func(l *ledger) {
		may := l.mayGo()
		for _, ref := range refs {
			if ref.Lease <= m.mark && may(ref) {
				out = append(out, ref)
			}
		}
	})
	return out
}

// tombs are the packs of this scope that a tombstone names.
func (m *marking) tombs() map[packRef]tomb {
	out := map[packRef]tomb{}
	m.p.r.log.view(func(l *ledger) {
		maps.Copy(out, l.tombs)
		maps.DeleteFunc(out, func(o objectKey, _ tomb) bool {
			s, known := l.scopeOf(o.Lease)
			return o.Kind == kindManifest || !known || s != m.scope
		})
	})
	return out
}
