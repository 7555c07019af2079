package repo

import (
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// A disk is a tree of pages (FORMAT.md section 5). A leaf, level 0, has one entry for each block; an entry of a page
// of level l stands for the subtree below it, 256^l blocks. An entry is Data with the id of a block or page, or an
// absent kind for all that it stands for.

const (
	fanout   = 256
	kinds    = int(pipe.Bad) + 1 // kinds that may stand in a tree: Zero … Bad
	pageHead = 4                 // level (1), 0 (1), entries (2)
	maxPage  = pageHead + fanout*(3+32+8*kinds)
)

// sums counts blocks by kind.
type sums [kinds]uint64

func (s *sums) add(o sums) {
	for i := range s {
		s[i] += o[i]
	}
}

// entry is what a tree knows of a range.
type entry struct {
	kind pipe.Kind
	id   pipe.ID // of a block or page, where kind is Data
	sums sums    // of the subtree, where kind is Data and the entry stands in an inner page

	random bool // of a block that was just written: it looks like chance; not stored
}

// page is one node of a tree, as it is stored.
type page struct {
	level   int
	entries []entry
}

// encode gives the page's only encoding.
func (p *page) encode(dst []byte) []byte {
	dst = append(dst[:0], byte(p.level), 0)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(p.entries)))
	for i := 0; i < len(p.entries); {
		j := i + 1
		for j < len(p.entries) && p.entries[j].kind == p.entries[i].kind {
			j++
		}
		dst = append(dst, byte(p.entries[i].kind))
		dst = binary.LittleEndian.AppendUint16(dst, uint16(j-i))
		if p.entries[i].kind == pipe.Data {
			dst = appendData(dst, p.entries[i:j], p.level)
		}
		i = j
	}
	return dst
}

func appendData(dst []byte, run []entry, level int) []byte {
	for k := range run {
		dst = append(dst, run[k].id[:]...)
		if level == 0 {
			continue
		}
		for _, n := range run[k].sums {
			dst = binary.LittleEndian.AppendUint64(dst, n)
		}
	}
	return dst
}

// decodePage reads a page that must be of the given level with the given number of entries, in its only encoding.
func decodePage(b []byte, level, count int) (*page, error) {
	if len(b) < pageHead || int(b[0]) != level || b[1] != 0 || int(binary.LittleEndian.Uint16(b[2:])) != count {
		return nil, fmt.Errorf("page is not of level %d with %d entries", level, count)
	}
	b = b[pageHead:]
	p := &page{level: level, entries: make([]entry, 0, count)}
	last := -1
	for len(p.entries) < count {
		if len(b) < 3 {
			return nil, fmt.Errorf("page ends in entry %d", len(p.entries))
		}
		kind, run := int(b[0]), int(binary.LittleEndian.Uint16(b[1:]))
		if kind >= kinds || kind == last || run == 0 || run > count-len(p.entries) {
			return nil, fmt.Errorf("page has a bad run at entry %d", len(p.entries))
		}
		last, b = kind, b[3:]
		var err error
		if b, err = p.decodeRun(b, pipe.Kind(kind), run); err != nil {
			return nil, err
		}
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("page has %d bytes after its end", len(b))
	}
	return p, nil
}

func (p *page) decodeRun(b []byte, kind pipe.Kind, run int) ([]byte, error) {
	width := 0
	if kind == pipe.Data {
		width = 32
		if p.level > 0 {
			width += 8 * kinds
		}
	}
	if len(b) < run*width {
		return nil, fmt.Errorf("page ends in entry %d", len(p.entries))
	}
	for range run {
		e := entry{kind: kind}
		if width > 0 {
			copy(e.id[:], b)
			if p.level > 0 {
				for k := range e.sums {
					e.sums[k] = binary.LittleEndian.Uint64(b[32+8*k:])
				}
			}
			b = b[width:]
		}
		p.entries = append(p.entries, e)
	}
	return b, nil
}

// uniform reports whether all entries are absent for one reason: such a page is never stored, its parent says it.
func (p *page) uniform() (pipe.Kind, bool) {
	first := p.entries[0].kind
	if first == pipe.Data {
		return 0, false
	}
	for _, e := range p.entries[1:] {
		if e.kind != first {
			return 0, false
		}
	}
	return first, true
}

// shape is the arithmetic of one disk's tree.
type shape struct {
	size      int64
	blockSize int64
	blocks    int64
	height    int // level of the root
}

func newShape(size int64, blockSize int) shape {
	s := shape{size: size, blockSize: int64(blockSize)}
	s.blocks = size / s.blockSize
	if size%s.blockSize != 0 {
		s.blocks++
	}
	for s.span(s.height+1) < s.blocks {
		s.height++
	}
	return s
}

// span is how many blocks one entry of a page of this level stands for. Levels beyond 7 do not exist: 256⁷ blocks of
// 64 KiB are more than an int64 of bytes.
func (s shape) span(level int) int64 {
	if level >= 7 {
		return 1 << 56
	}
	return 1 << (8 * level)
}

// entries is how many entries the page of this level that starts at block first has.
func (s shape) entries(level int, first int64) int {
	left := s.blocks - first
	span := s.span(level)
	return int(min(fanout, (left+span-1)/span))
}

// covered is how many blocks the entry at block first of a page of this level really stands for.
func (s shape) covered(level int, first int64) int64 {
	return min(s.span(level), s.blocks-first)
}

// sumsOf are the sums of one entry of a page of the given level that stands for n blocks.
func sumsOf(e entry, level int, n int64) sums {
	if e.kind == pipe.Data && level > 0 {
		return e.sums
	}
	var s sums
	s[e.kind] = uint64(n)
	return s
}

// bytesIn turns a disk's sums into bytes; the last block may be shorter.
func (s shape) bytesIn(total sums, lastKind pipe.Kind) [kinds]int64 {
	var out [kinds]int64
	for k, n := range total {
		out[k] = int64(n) * s.blockSize
	}
	if short := s.blocks*s.blockSize - s.size; s.blocks > 0 {
		out[lastKind] -= short
	}
	return out
}
