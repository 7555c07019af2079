package index

import (
	"math/bits"
	"slices"
)

// maxGramBits bounds a block's summary. Two bits for each three letters that names of a block have, one of them set: a
// query of n groups of three passes a block that has none of it with less than 0.4 to the nth.
const maxGramBits = 1 << 16

// grams collects the groups of three letters of names, in lower case as far as ASCII goes.
type grams struct {
	seen  map[uint32]struct{}
	lower []byte
}

func (g *grams) reset() {
	if g.seen == nil {
		g.seen = map[uint32]struct{}{}
	}
	clear(g.seen)
}

func (g *grams) add(name string) {
	g.lower = lower(g.lower[:0], name)
	for i := range len(g.lower) - 2 {
		g.seen[gram(g.lower[i:])] = struct{}{}
	}
}

// summary is a set of bits: a power of two of them, at least twice as many as groups.
func (g *grams) summary() []byte {
	if len(g.seen) == 0 {
		return nil
	}
	n := uint32(min(max(1<<bits.Len(uint(2*len(g.seen)-1)), 64), maxGramBits))
	out := make([]byte, n/8)
	for t := range g.seen {
		set(out, t)
	}
	return out
}

func set(summary []byte, t uint32) {
	i := spot(summary, t)
	summary[i>>3] |= 1 << (i & 7)
}

// may reports whether a block with this summary may have names with all of these groups.
func may(summary []byte, need []uint32) bool {
	if len(summary) == 0 {
		return len(need) == 0
	}
	for _, t := range need {
		if i := spot(summary, t); summary[i>>3]>>(i&7)&1 == 0 {
			return false
		}
	}
	return true
}

// spot is a group's bit: the upper bits of a product with 2^32 divided by the golden ratio.
func spot(summary []byte, t uint32) uint32 {
	return t * 0x9e3779b1 >> (32 - bits.Len(uint(len(summary)*8-1)))
}

// needs are the groups of a text that a name must have. Those with bytes beyond ASCII are left out: case may be written
// there in more than one way.
func needs(text string) []uint32 {
	p := lower(nil, text)
	var out []uint32
	for i := range len(p) - 2 {
		if t := gram(p[i:]); t&0x808080 == 0 && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

func gram(p []byte) uint32 { return uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2]) }

// lower appends s in lower case, as far as ASCII goes.
func lower(p []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		p = append(p, c)
	}
	return p
}
