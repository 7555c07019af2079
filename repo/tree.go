package repo

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// pages keeps and finds the pages of trees.
type pages interface {
	savePage(ctx context.Context, encoded []byte) (pipe.ID, error)
	loadPage(ctx context.Context, id pipe.ID, level, entries int) (*page, error)
}

// treeWriter builds one disk's tree. Entries come in any order; a page is stored as soon as all its entries are
// settled, so that a disk of any size needs memory only for the pages that are being filled. What is unchanged since
// the base is taken over by the largest subtrees, without reading them.
//
// It is not safe for concurrent use.
type treeWriter struct {
	shape
	pages pages
	base  *entry // root of the base's tree, of the same shape
	root  *node
	buf   []byte

	overwritten, randomized int64 // bytes of blocks that held other data in the base, and of those that look like chance now
}

// node is a page that is being filled.
type node struct {
	level   int
	first   int64 // block
	entries []entry
	settled []bool
	count   int     // of settled entries
	child   []*node // of inner nodes: subtrees that are being filled

	parent *node
	at     int   // place in the parent
	base   *page // of the same place in the base, once it was needed
}

func newTreeWriter(s shape, p pages, base *entry) *treeWriter {
	t := &treeWriter{shape: s, pages: p, base: base}
	if s.blocks > 0 {
		t.root = t.newNode(s.height, 0, nil, 0)
	}
	return t
}

func (t *treeWriter) newNode(level int, first int64, parent *node, at int) *node {
	n := t.shape.entries(level, first)
	nd := &node{level: level, first: first, entries: make([]entry, n), settled: make([]bool, n), parent: parent, at: at}
	if level > 0 {
		nd.child = make([]*node, n)
	}
	return nd
}

// setBlock settles one block.
func (t *treeWriter) setBlock(ctx context.Context, block int64, e entry) error {
	return t.set(ctx, t.root, block, block+1, func(n *node, _ int) (entry, bool, error) { return e, n.level == 0, nil })
}

// mark settles blocks [lo, hi) as absent for a reason.
func (t *treeWriter) mark(ctx context.Context, lo, hi int64, kind pipe.Kind) error {
	return t.set(ctx, t.root, lo, hi, func(*node, int) (entry, bool, error) { return entry{kind: kind}, true, nil })
}

// keep settles blocks [lo, hi) as what the base has there.
func (t *treeWriter) keep(ctx context.Context, lo, hi int64) error {
	if t.base == nil {
		return ErrNoBase
	}
	return t.set(ctx, t.root, lo, hi, func(n *node, i int) (entry, bool, error) {
		e, err := t.baseEntry(ctx, n, i)
		return e, true, err
	})
}

// set settles [lo, hi) below n with what value gives for each entry that lies wholly inside; where value says that it
// is not for this level (a block's id in an inner page that happens to stand for one block), it is asked below.
func (t *treeWriter) set(ctx context.Context, n *node, lo, hi int64, value func(*node, int) (entry, bool, error)) error {
	span := t.span(n.level)
	for i := int((max(lo, n.first) - n.first) / span); i < len(n.entries); i++ {
		first := n.first + int64(i)*span
		if first >= hi {
			break
		}
		if lo <= first && first+t.covered(n.level, first) <= hi {
			e, ok, err := value(n, i)
			if err != nil {
				return err
			}
			if ok {
				n.settle(i, e)
				continue
			}
		}
		child, err := t.open(ctx, n, i)
		if err != nil {
			return err
		}
		if err := t.set(ctx, child, lo, hi, value); err != nil {
			return err
		}
		if child.count < len(child.entries) {
			continue
		}
		e, err := t.flush(ctx, child)
		if err != nil {
			return err
		}
		n.settle(i, e)
	}
	return nil
}

func (n *node) settle(i int, e entry) {
	if !n.settled[i] {
		n.settled[i] = true
		n.count++
	}
	n.entries[i] = e
	if n.child != nil {
		n.child[i] = nil
	}
}

// open returns the node below entry i of n, to fill it. A subtree that was settled before is opened again.
func (t *treeWriter) open(ctx context.Context, n *node, i int) (*node, error) {
	if n.child[i] != nil {
		return n.child[i], nil
	}
	c := t.newNode(n.level-1, n.first+int64(i)*t.span(n.level), n, i)
	if n.settled[i] {
		if err := t.fill(ctx, c, n.entries[i]); err != nil {
			return nil, err
		}
		n.settled[i] = false
		n.count--
	}
	n.child[i] = c
	return c, nil
}

func (t *treeWriter) fill(ctx context.Context, n *node, e entry) error {
	if e.kind == pipe.Data {
		p, err := t.pages.loadPage(ctx, e.id, n.level, len(n.entries))
		if err != nil {
			return err
		}
		copy(n.entries, p.entries)
	} else {
		for i := range n.entries {
			n.entries[i] = e
		}
	}
	for i := range n.settled {
		n.settled[i] = true
	}
	n.count = len(n.settled)
	return nil
}

// baseEntry is what the base has at entry i of n.
func (t *treeWriter) baseEntry(ctx context.Context, n *node, i int) (entry, error) {
	if n.base == nil {
		up := *t.base
		if n.parent != nil {
			var err error
			if up, err = t.baseEntry(ctx, n.parent, n.at); err != nil {
				return entry{}, err
			}
		}
		if up.kind != pipe.Data {
			return entry{kind: up.kind}, nil
		}
		p, err := t.pages.loadPage(ctx, up.id, n.level, len(n.entries))
		if err != nil {
			return entry{}, fmt.Errorf("base: %w", err)
		}
		n.base = p
	}
	return n.base.entries[i], nil
}

// flush stores a filled node and returns the entry that stands for it.
func (t *treeWriter) flush(ctx context.Context, n *node) (entry, error) {
	t.compare(ctx, n)
	return t.save(ctx, n)
}

// save stores a node.
func (t *treeWriter) save(ctx context.Context, n *node) (entry, error) {
	p := page{level: n.level, entries: n.entries}
	if kind, ok := p.uniform(); ok {
		return entry{kind: kind}, nil
	}
	t.buf = p.encode(t.buf)
	id, err := t.pages.savePage(ctx, t.buf)
	if err != nil {
		return entry{}, err
	}
	e := entry{kind: pipe.Data, id: id}
	for i := range n.entries {
		e.sums.add(sumsOf(n.entries[i], n.level, t.covered(n.level, n.first+int64(i)*t.span(n.level))))
	}
	return e, nil
}

// compare counts what a leaf has in place of other data of the base. That is for a report: what cannot be read of the base is not
// counted, and whoever needs it finds out.
func (t *treeWriter) compare(ctx context.Context, n *node) {
	if n.level > 0 || t.base == nil {
		return
	}
	for i, e := range n.entries {
		if e.kind != pipe.Data {
			continue
		}
		was, err := t.baseEntry(ctx, n, i)
		if err != nil {
			return
		}
		if was.kind != pipe.Data || was.id == e.id {
			continue
		}
		size := t.covered(0, n.first+int64(i)) * t.blockSize
		t.overwritten += size
		if e.random {
			t.randomized += size
		}
	}
}

// finish stores the root. Every block must have been settled.
func (t *treeWriter) finish(ctx context.Context) (entry, error) {
	if t.root == nil {
		return entry{kind: pipe.Zero}, nil
	}
	if lo, ok := t.root.hole(t.shape); ok {
		return entry{}, fmt.Errorf("%w: nothing was said of byte %d", ErrIncomplete, lo*t.blockSize)
	}
	return t.flush(ctx, t.root)
}

// hole finds the first block below n that was not settled.
func (n *node) hole(s shape) (int64, bool) {
	for i := range n.entries {
		switch {
		case n.settled[i]:
		case n.level > 0 && n.child[i] != nil:
			if lo, ok := n.child[i].hole(s); ok {
				return lo, true
			}
			fallthrough // it is filled, but it could not be stored
		default:
			return n.first + int64(i)*s.span(n.level), true
		}
	}
	return 0, false
}

// treeReader walks a stored tree.
type treeReader struct {
	shape
	load func(ctx context.Context, id pipe.ID, level, entries int) (*page, error)
	root entry
}

// total are the disk's sums.
func (t treeReader) total() sums { return sumsOf(t.root, t.height+1, t.blocks) }

// lookup finds the entry of one block.
func (t treeReader) lookup(ctx context.Context, block int64) (entry, error) {
	e := t.root
	for level, first := t.height, int64(0); level >= 0 && e.kind == pipe.Data; level-- {
		p, err := t.load(ctx, e.id, level, t.entries(level, first))
		if err != nil {
			return entry{}, err
		}
		i := (block - first) / t.span(level)
		e = p.entries[i]
		first += i * t.span(level)
	}
	return e, nil
}

// walk calls f, in order, for every run [lo, hi) of blocks in [from, to) that one entry stands for: a block, or a
// subtree that is absent as a whole.
func (t treeReader) walk(ctx context.Context, from, to int64, f func(e entry, lo, hi int64) error) error {
	if t.blocks == 0 || from >= to {
		return nil
	}
	return t.walkEntry(ctx, t.root, t.height, 0, from, to, f)
}

// walkEntry: e stands for the page of this level that starts at first; level −1 is a block.
func (t treeReader) walkEntry(ctx context.Context, e entry, level int, first, from, to int64, f func(e entry, lo, hi int64) error) error {
	if e.kind != pipe.Data || level < 0 {
		n := int64(1)
		if level >= 0 {
			n = t.covered(level+1, first)
		}
		return f(e, max(first, from), min(first+n, to))
	}
	p, err := t.load(ctx, e.id, level, t.entries(level, first))
	if err != nil {
		return err
	}
	span := t.span(level)
	for i := max(0, from-first) / span; i < int64(len(p.entries)); i++ {
		at := first + i*span
		if at >= to {
			return nil
		}
		below := level - 1
		if err := t.walkEntry(ctx, p.entries[i], below, at, from, to, f); err != nil {
			return err
		}
	}
	return nil
}
