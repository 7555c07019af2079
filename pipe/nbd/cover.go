package nbd

import (
	"slices"
	"sort"
)

// span is the range [from, to) of a request's bytes.
type span struct{ from, to uint64 }

// cover is the set of ranges of one read that have arrived: ascending, apart from each other. Answers nearly always
// come in order, so it nearly always is one range.
type cover []span

// add takes a range in. It reports false where the range overlaps one that is there, or where there would be too many.
func (c *cover) add(from, to uint64) bool {
	list := *c
	i := sort.Search(len(list), func(i int) bool { return list[i].from >= from })
	if i > 0 && list[i-1].to > from || i < len(list) && list[i].from < to {
		return false
	}
	before, after := i > 0 && list[i-1].to == from, i < len(list) && list[i].from == to
	switch {
	case before && after:
		list[i-1].to = list[i].to
		list = slices.Delete(list, i, i+1)
	case before:
		list[i-1].to = to
	case after:
		list[i].from = from
	case len(list) >= maxPieces:
		return false
	default:
		list = slices.Insert(list, i, span{from, to})
	}
	*c = list
	return true
}

// prefix is how many bytes from the first one on have arrived without a gap.
func (c cover) prefix() uint64 {
	if len(c) > 0 && c[0].from == 0 {
		return c[0].to
	}
	return 0
}
