package nfc

import "slices"

// cover is what has arrived of one answer. Pieces come in any order and at most once each.
type cover struct {
	parts []span // ascending, neighbours joined
	n     uint32
}

type span struct{ from, to uint32 }

// mostParts are the parts of one answer that do not touch: as many as the longest one has sectors. Without a bound, a host
// that sends a byte here and a byte there would make our work grow with their square.
const mostParts = 4096

// add takes a piece. It reports false where the piece is empty, part of it was there before, or the answer has too many parts.
func (c *cover) add(s span) bool {
	i, _ := slices.BinarySearchFunc(c.parts, s.from, func(p span, from uint32) int {
		if p.from < from {
			return -1
		}
		return 1 // the first that does not begin before
	})
	before, after := i > 0, i < len(c.parts)
	if s.from >= s.to || before && c.parts[i-1].to > s.from || after && c.parts[i].from < s.to {
		return false
	}
	joinsBefore := before && c.parts[i-1].to == s.from
	joinsAfter := after && c.parts[i].from == s.to
	if !joinsBefore && !joinsAfter && len(c.parts) >= mostParts {
		return false
	}
	c.n += s.to - s.from
	switch {
	case joinsBefore && joinsAfter:
		c.parts[i-1].to = c.parts[i].to
		c.parts = slices.Delete(c.parts, i, i+1)
	case joinsBefore:
		c.parts[i-1].to = s.to
	case joinsAfter:
		c.parts[i].from = s.from
	default:
		c.parts = slices.Insert(c.parts, i, s)
	}
	return true
}
