package ext

import (
	"cmp"
	"slices"
	"sort"
)

// span is a range of blocks.
type span struct{ at, end uint64 }

// blockSet is a list of spans: in any order while it grows, ascending and disjoint after joined.
type blockSet []span

// add appends a span, which grows the last one where it follows it.
func (l *blockSet) add(at, n uint64) {
	if k := len(*l); k > 0 && (*l)[k-1].end == at {
		(*l)[k-1].end += n
		return
	}
	*l = append(*l, span{at, at + n})
}

// joined is all spans of several sets, in order and joined.
func joined(sets ...blockSet) blockSet {
	all := slices.Concat(sets...)
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.at, b.at) })
	out := all[:0]
	for _, r := range all {
		if k := len(out); k > 0 && r.at <= out[k-1].end {
			out[k-1].end = max(out[k-1].end, r.end)
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

// within are the spans that touch [at, end); the set is ascending.
func (l blockSet) within(at, end uint64) blockSet {
	i := sort.Search(len(l), func(i int) bool { return l[i].end > at })
	j := i
	for j < len(l) && l[j].at < end {
		j++
	}
	return l[i:j]
}
