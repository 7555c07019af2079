package xfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// shape is what the kinds of B+trees differ in.
type shape struct {
	name   string
	magic4 string // of version 4; empty: there is none
	magic5 string
	wide   bool // addresses of 64 bits: trees that belong to an inode
	rec    int  // bytes of a record
	key    int  // bytes of a key
}

var (
	byBlockTree  = &shape{name: "tree of free space by block", magic4: "ABTB", magic5: "AB3B", rec: 8, key: 8}
	byLengthTree = &shape{name: "tree of free space by length", magic4: "ABTC", magic5: "AB3C", rec: 8, key: 8}
	inodeTree    = &shape{name: "tree of inodes", magic4: "IABT", magic5: "IAB3", rec: 16, key: 4}
	freeInoTree  = &shape{name: "tree of free inodes", magic4: "FIBT", magic5: "FIB3", rec: 16, key: 4}
	rmapTree     = &shape{name: "tree of owners", magic5: "RMB3", rec: 24, key: 40}
	refTree      = &shape{name: "tree of reference counts", magic5: "R3FC", rec: 12, key: 4}
	extentTree   = &shape{name: "tree of extents", magic4: "BMAP", magic5: "BMA3", wide: true, rec: 16, key: 8}
)

// maxLevels is more than the deepest tree of the largest group or file needs with the smallest blocks.
const maxLevels = 16

// node is one block of a tree.
type node struct {
	level, count int
	left, right  uint64
	keys, ptrs   []byte // of an inner node
	recs         []byte // of a leaf
}

const (
	nullShort = uint64(^uint32(0))
	nullLong  = ^uint64(0)
)

func (s *shape) null() uint64 {
	if s.wide {
		return nullLong
	}
	return nullShort
}

func (s *shape) ptrLen() int {
	if s.wide {
		return 8
	}
	return 4
}

func (s *shape) ptr(ptrs []byte, i int) uint64 {
	if s.wide {
		return be.Uint64(ptrs[i*8:])
	}
	return uint64(be.Uint32(ptrs[i*4:]))
}

// keyAt is the part of a key by which look-ups go: a block, an inode, an offset in a file.
func (s *shape) keyAt(keys []byte, i int) uint64 {
	if s.wide {
		return be.Uint64(keys[i*s.key:])
	}
	return uint64(be.Uint32(keys[i*s.key:]))
}

// headLen is how many bytes of a block its header takes.
func (s *shape) headLen(v5 bool) int {
	switch {
	case s.wide && v5:
		return 72
	case s.wide:
		return 24
	case v5:
		return 56
	}
	return 16
}

// parse takes a block apart whose seal is verified.
func (s *shape) parse(b []byte, v5 bool) (n node, why string) {
	magic := s.magic4
	if v5 {
		magic = s.magic5
	}
	if magic == "" || string(b[:4]) != magic {
		return n, "no " + magic
	}
	n.level, n.count = int(be.Uint16(b[4:])), int(be.Uint16(b[6:]))
	if s.wide {
		n.left, n.right = be.Uint64(b[8:]), be.Uint64(b[16:])
	} else {
		n.left, n.right = uint64(be.Uint32(b[8:])), uint64(be.Uint32(b[12:]))
	}
	body := b[s.headLen(v5):]
	if n.level == 0 {
		if n.count > len(body)/s.rec {
			return n, fmt.Sprintf("%d records", n.count)
		}
		n.recs = body[:n.count*s.rec]
		return n, ""
	}
	room := len(body) / (s.key + s.ptrLen())
	if n.count == 0 || n.count > room {
		return n, fmt.Sprintf("%d keys", n.count)
	}
	n.keys, n.ptrs = body[:n.count*s.key], body[room*s.key:][:n.count*s.ptrLen()]
	return n, ""
}

// walk visits a tree's records in order.
type walk struct {
	f     *FS
	v     view
	shape *shape
	owner uint64 // anyOwner: not compared
	// at is the byte of a block; false: there is no such block.
	at func(ptr uint64) (int64, bool)
	// from skips the subtrees that lie before this key as a whole; records just before it may still come.
	from uint64
	// lenient leaves out what cannot be read instead of failing: the tree may be written in part.
	lenient bool
	// cached keeps the blocks for the next look-up.
	cached bool
	// block is told of every block of the tree; nil: nobody asks.
	block func(ptr uint64)
	// rec is told of every record. errStop ends the walk without an error.
	rec func(b []byte) error

	// visited holds the blocks of a lenient walk, which has no neighbours to find a cycle by.
	visited map[uint64]struct{}
	levels  [maxLevels]struct {
		buf       []byte
		seen      bool
		at, right uint64
	}
}

var errStop = errors.New("stop")

// run walks the tree whose top block is at ptr.
func (w *walk) run(ctx context.Context, ptr uint64, levels uint32) error {
	if levels == 0 || levels > maxLevels {
		return &fsys.CorruptError{What: w.shape.name, Off: -1, Why: fmt.Sprintf("%d levels", levels)}
	}
	return w.end(w.visit(ctx, ptr, int(levels)-1))
}

// runBelow walks a tree whose top node is kept elsewhere: in an inode.
func (w *walk) runBelow(ctx context.Context, n node) error {
	if n.level == 0 || n.level >= maxLevels {
		return &fsys.CorruptError{What: w.shape.name, Off: -1, Why: fmt.Sprintf("%d levels", n.level)}
	}
	return w.end(w.children(ctx, n))
}

// end looks at what can be known only when all blocks were seen: that none was left out on the right.
func (w *walk) end(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	if err != nil || w.lenient {
		return err
	}
	for i := range w.levels {
		if l := &w.levels[i]; l.seen && l.right != w.shape.null() {
			return &fsys.CorruptError{What: w.shape.name, Off: -1, Why: fmt.Sprintf("block %d is not reached from above", l.right)}
		}
	}
	return nil
}

func (w *walk) visit(ctx context.Context, ptr uint64, level int) error {
	n, err := w.node(ctx, ptr, level)
	if err != nil {
		return err
	}
	if w.block != nil {
		w.block(ptr)
	}
	if level > 0 {
		return w.children(ctx, n)
	}
	for i := 0; i < len(n.recs); i += w.shape.rec {
		if err := w.rec(n.recs[i : i+w.shape.rec]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) children(ctx context.Context, n node) error {
	first := 0
	if w.from > 0 {
		for first+1 < n.count && w.shape.keyAt(n.keys, first+1) <= w.from {
			first++
		}
	}
	for i := first; i < n.count; i++ {
		err := w.visit(ctx, w.shape.ptr(n.ptrs, i), n.level-1)
		if w.lenient && isCorrupt(err) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isCorrupt(err error) bool {
	var c *fsys.CorruptError
	return errors.As(err, &c)
}

// node reads and verifies one block. Levels fall by one on every step down and neighbours are compared, so that a cycle
// is an error and no walk sees more blocks than there are.
func (w *walk) node(ctx context.Context, ptr uint64, level int) (node, error) {
	off, ok := w.at(ptr)
	if !ok {
		return node{}, &fsys.CorruptError{What: w.shape.name, Off: -1, Why: fmt.Sprintf("block %d is outside", ptr)}
	}
	b, err := w.read(ctx, off, level)
	if err != nil {
		return node{}, err
	}
	n, why := w.shape.parse(b, w.f.sb.v5)
	if why == "" {
		why = w.neighbours(&n, ptr, level)
	}
	if why != "" {
		return node{}, &fsys.CorruptError{What: w.shape.name, Off: off, Why: why}
	}
	return n, nil
}

func (w *walk) neighbours(n *node, ptr uint64, level int) string {
	if n.level != level {
		return fmt.Sprintf("level %d instead of %d", n.level, level)
	}
	l := &w.levels[level]
	if w.lenient {
		return w.once(ptr)
	}
	switch {
	case l.seen && (l.right != ptr || n.left != l.at):
		return fmt.Sprintf("its neighbours are %d and %d", n.left, n.right)
	case !l.seen && w.from == 0 && n.left != w.shape.null():
		return fmt.Sprintf("block %d on its left is not reached from above", n.left)
	}
	l.seen, l.at, l.right = true, ptr, n.right
	return ""
}

func (w *walk) once(ptr uint64) string {
	if _, again := w.visited[ptr]; again {
		return "it is reached twice"
	}
	if w.visited == nil {
		w.visited = map[uint64]struct{}{}
	}
	w.visited[ptr] = struct{}{}
	return ""
}

func (w *walk) read(ctx context.Context, off int64, level int) ([]byte, error) {
	s := &shortSeal
	if w.shape.wide {
		s = &longSeal
	}
	if w.cached {
		return w.f.cached(ctx, off, int(w.f.sb.blockSize), func(b []byte, patched bool) error {
			if !w.f.sb.v5 {
				return nil
			}
			return w.f.checkSeal(b, s, w.shape.name, off, w.owner, patched)
		})
	}
	l := &w.levels[level]
	if l.buf == nil {
		l.buf = make([]byte, w.f.sb.blockSize)
	}
	return l.buf, w.f.readSealed(ctx, w.v, l.buf, s, w.shape.name, off, w.owner)
}

// groupWalk prepares the walk of a tree of one group.
func (f *FS) groupWalk(v view, g *group, s *shape, rec func(b []byte) error) *walk {
	return &walk{f: f, v: v, shape: s, owner: uint64(g.no), rec: rec, at: func(ptr uint64) (int64, bool) {
		if ptr >= uint64(g.len) {
			return 0, false
		}
		return f.sb.at(g.no, uint32(ptr)), true
	}}
}
