package xfs

import (
	"cmp"
	"slices"
)

// span is a run of blocks in one group.
type span struct{ first, n uint32 }

func (s span) end() uint64 { return uint64(s.first) + uint64(s.n) }

// tidySpans sorts spans and joins those that touch or overlap, in place.
func tidySpans(list []span) []span {
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	out := list[:0]
	for _, s := range list {
		if n := len(out); n > 0 && uint64(s.first) <= out[n-1].end() {
			out[n-1].n = uint32(max(out[n-1].end(), s.end()) - uint64(out[n-1].first))
		} else if s.n > 0 {
			out = append(out, s)
		}
	}
	return out
}

// overlap finds the part of tidy spans that [first, first+n) meets first.
func overlap(list []span, first, n uint32) (span, bool) {
	end := uint64(first) + uint64(n)
	i, _ := slices.BinarySearchFunc(list, first, func(s span, first uint32) int {
		if s.end() <= uint64(first) {
			return -1
		}
		return 1
	})
	if i == len(list) || uint64(list[i].first) >= end {
		return span{}, false
	}
	from := max(list[i].first, first)
	return span{from, uint32(min(list[i].end(), end) - uint64(from))}, true
}

// intersect is what is in both of two tidy lists.
func intersect(a, b []span) (out []span) {
	for len(a) > 0 && len(b) > 0 {
		from, to := max(a[0].first, b[0].first), min(a[0].end(), b[0].end())
		if uint64(from) < to {
			out = append(out, span{from, uint32(to - uint64(from))})
		}
		if a[0].end() < b[0].end() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// subtract is what is in a, and not in b; both are tidy.
func subtract(a, b []span) (out []span) {
	for _, s := range a {
		for len(b) > 0 && b[0].end() <= uint64(s.first) {
			b = b[1:]
		}
		for i := 0; i < len(b) && uint64(b[i].first) < s.end(); i++ {
			if b[i].first > s.first {
				out = append(out, span{s.first, b[i].first - s.first})
			}
			next := min(b[i].end(), s.end())
			s = span{uint32(next), uint32(s.end() - next)}
		}
		if s.n > 0 {
			out = append(out, s)
		}
	}
	return out
}
