package ext

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// mapped is a part of a file that has blocks.
type mapped struct {
	file, vol, n uint64 // blocks
	unwritten    bool
}

// end is the first block of the file after it.
func (m mapped) end() uint64 { return m.file + m.n }

// mapper walks an inode's block map in the order of the file.
type mapper struct {
	v     *view
	i     *inode
	from  uint64            // what ends before this block of the file is left out
	emit  func(mapped) bool // false ends the walk
	node  func(block uint64)
	total uint64 // blocks so far: no file has more than the file system
	blank int    // leaves without entries
}

// mapping yields the parts of a file that have blocks, ascending, neighbours joined, from a block on and at least up to
// another. The walk ends early where emit answers false.
func (v *view) mapping(ctx context.Context, i *inode, from, to uint64, emit func(mapped) bool) error {
	var last mapped
	stopped := false
	m := &mapper{v: v, i: i, from: from, emit: func(next mapped) bool {
		if last.n > 0 && last.end() == next.file && last.vol+last.n == next.vol && last.unwritten == next.unwritten {
			last.n += next.n
			return last.end() < to
		}
		if last.n > 0 && !emit(last) {
			stopped = true
			return false
		}
		last = next
		return last.end() < to
	}}
	if err := m.walk(ctx); err != nil || stopped {
		return err
	}
	if last.n > 0 {
		emit(last)
	}
	return nil
}

func (m *mapper) walk(ctx context.Context) error {
	if m.i.inline() {
		return nil
	}
	if m.i.flags&flagExtents != 0 {
		area := m.i.blockArea()
		_, err := m.extents(ctx, area, 0, int(le.Uint16(area[6:])), 0, 1<<32)
		return err
	}
	return m.indirect(ctx)
}

// found hands on what was found, from m.from on.
func (m *mapper) found(x mapped) (bool, error) {
	if x.vol < m.v.s.first || !m.v.d.holds(x.vol, x.n) {
		return false, m.i.corrupt("its block %d is block %d of %d", x.file, x.vol, m.v.s.blocks)
	}
	if m.total += x.n; m.total > m.v.s.blocks {
		return false, m.i.corrupt("it has more blocks than the file system")
	}
	if x.end() <= m.from {
		return true, nil
	}
	if x.file < m.from {
		skip := m.from - x.file
		x.file, x.vol, x.n = m.from, x.vol+skip, x.n-skip
	}
	return m.emit(x), nil
}

// visit says that a block holds a part of the map.
func (m *mapper) visit(b uint64) {
	if m.node != nil {
		m.node(b)
	}
}

const (
	extentMagic  = 0xf30a
	maxExtentLen = 32768 // longer ones are unwritten
	maxDepth     = 5     // of extent trees: 340^5 leaves are beyond 2^32 blocks
	maxBlank     = 1000
)

// extents walks a node of the tree, which holds the file's blocks from lo up to hi. It answers whether to go on.
//
// A tree can have no circles: each node's keys must lie in the range that its parent gives it, and the ranges of siblings
// are disjoint. Only leaves without keys escape that, and those are counted.
func (m *mapper) extents(ctx context.Context, p []byte, at uint64, depth int, lo, hi uint64) (bool, error) {
	entries := int(le.Uint16(p[2:]))
	if why := m.checkNode(p, at, depth); why != "" {
		return false, m.corruptAt("extents", at, why)
	}
	if entries == 0 && at != 0 {
		if m.blank++; depth > 0 || m.blank > maxBlank {
			return false, m.corruptAt("extents", at, "no entries")
		}
	}
	if depth == 0 {
		return m.leaf(p, at, entries, lo, hi)
	}
	for k := range entries {
		e := p[12+12*k:]
		first, end := uint64(le.Uint32(e)), hi
		if k+1 < entries {
			end = uint64(le.Uint32(e[12:]))
		}
		if first < lo || first >= end || end > hi {
			return false, m.corruptAt("extents", at, fmt.Sprintf("entry %d is of [%d, %d) in [%d, %d)", k, first, end, lo, hi))
		}
		if end <= m.from {
			continue
		}
		child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
		block, err := m.v.d.block(ctx, child)
		if err != nil {
			return false, err
		}
		if m.total++; m.total > m.v.s.blocks {
			return false, m.i.corrupt("it has more blocks than the file system")
		}
		m.visit(child)
		if more, err := m.extents(ctx, block, child, depth-1, first, end); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

// checkNode says what is wrong with a node's head and checksum.
func (m *mapper) checkNode(p []byte, at uint64, depth int) string {
	entries, room := int(le.Uint16(p[2:])), int(le.Uint16(p[4:]))
	switch {
	case le.Uint16(p) != extentMagic:
		return fmt.Sprintf("magic %#x", le.Uint16(p))
	case depth > maxDepth || int(le.Uint16(p[6:])) != depth:
		return fmt.Sprintf("depth %d, not %d", le.Uint16(p[6:]), depth)
	case room > (len(p)-12)/12 || entries > room:
		return fmt.Sprintf("%d of %d entries", entries, room)
	case at != 0 && m.v.s.metaSums():
		tail := 12 + 12*room
		if tail+4 > len(p) {
			return fmt.Sprintf("no place for a checksum behind %d entries", room)
		}
		if stored, want := le.Uint32(p[tail:]), crc32c(m.i.seed, p[:tail]); stored != want {
			return fmt.Sprintf("checksum %#x, not %#x", stored, want)
		}
	}
	return ""
}

func (m *mapper) leaf(p []byte, at uint64, entries int, lo, hi uint64) (bool, error) {
	for k := range entries {
		e := p[12+12*k:]
		x := mapped{file: uint64(le.Uint32(e)), n: uint64(le.Uint16(e[4:])), vol: uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32}
		if x.n > maxExtentLen {
			x.n, x.unwritten = x.n-maxExtentLen, true
		}
		if x.n == 0 || x.file < lo || x.end() > hi {
			return false, m.corruptAt("extents", at, fmt.Sprintf("entry %d is [%d, %d) in [%d, %d)", k, x.file, x.end(), lo, hi))
		}
		lo = x.end()
		if more, err := m.found(x); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

func (m *mapper) corruptAt(what string, block uint64, why string) error {
	off := int64(-1)
	if block != 0 {
		off = int64(block << m.v.s.blockBits)
	}
	return &fsys.CorruptError{What: fmt.Sprintf("%s of inode %d", what, m.i.n), Off: off, Why: why}
}

// indirect walks the classic map: twelve blocks, then a tree of one level, of two and of three.
func (m *mapper) indirect(ctx context.Context) error {
	area, at := m.i.blockArea(), uint64(0)
	for k := range 12 {
		if more, err := m.direct(uint64(le.Uint32(area[4*k:])), at); err != nil || !more {
			return err
		}
		at++
	}
	for level := range 3 {
		b := uint64(le.Uint32(area[48+4*level:]))
		if more, err := m.level(ctx, b, level, at); err != nil || !more {
			return err
		}
		at += m.covered(level + 1)
	}
	return nil
}

// covered is how many blocks of a file a pointer to a tree of so many levels stands for.
func (m *mapper) covered(levels int) uint64 {
	return 1 << (uint(levels) * (m.v.s.blockBits - 2))
}

func (m *mapper) direct(b, at uint64) (bool, error) {
	if b == 0 {
		return true, nil
	}
	return m.found(mapped{file: at, vol: b, n: 1})
}

// level walks a block of pointers at the block b, which stands for the file's blocks from at on.
func (m *mapper) level(ctx context.Context, b uint64, level int, at uint64) (bool, error) {
	if b == 0 || at+m.covered(level+1) <= m.from {
		return true, nil
	}
	if m.total++; m.total > m.v.s.blocks { // its own blocks count too, or a tree of nothing else would not end
		return false, m.i.corrupt("it has more blocks than the file system")
	}
	p, err := m.v.d.block(ctx, b)
	if err != nil {
		return false, err
	}
	m.visit(b)
	step := m.covered(level)
	for k := 0; k < len(p); k, at = k+4, at+step {
		child, more := uint64(le.Uint32(p[k:])), true
		switch {
		case child == 0 || at+step <= m.from:
			continue
		case level == 0:
			more, err = m.direct(child, at)
		default:
			more, err = m.level(ctx, child, level-1, at)
		}
		if err != nil || !more {
			return more, err
		}
	}
	return true, nil
}
