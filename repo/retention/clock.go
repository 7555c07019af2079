package retention

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// FutureSlack is how far a point's time may lie after [Options.Now] before it is doubted: clocks of hosts differ.
const FutureSlack = 24 * time.Hour

// DoubtKind is what speaks against a point's time.
type DoubtKind string

// Kinds of doubt.
const (
	NoTime DoubtKind = "no-time" // the time is zero, or outside the years 1 to 9999
	Future DoubtKind = "future"  // the time is more than FutureSlack after now
	Later  DoubtKind = "later"   // a point that was made after it has an earlier time
	Before DoubtKind = "earlier" // a point that was made before it has a later time
)

// Doubt says why a point's time is not relied on.
type Doubt struct {
	Kind  DoubtKind
	Point string // id of the trusted point that contradicts; empty for NoTime and Future
}

func (d *Doubt) String() string {
	switch d.Kind {
	case NoTime:
		return "its time is not known"
	case Future:
		return "its time lies in the future"
	case Later:
		return fmt.Sprintf("%s was made after it and has an earlier time", d.Point)
	}
	return fmt.Sprintf("%s was made before it and has a later time", d.Point)
}

// testimony is what a history says about its own times. Indices are those of the points in log order.
type testimony struct {
	trusted []int    // ascending in log order and in time
	doubts  []*Doubt // by point; nil where trusted
	witness []bool   // by point: must stay, so that the doubtful ones stay outvoted
}

// hear finds which times of a history are trusted: those of the longest series in log order in which they never step back.
// Of several equally long ones it is the one with the newer points, compared from the newest down.
//
// Witnesses make that answer last. A doubtful point contradicts one stretch of the trusted series; if L is the length
// of the longest series among the doubtful, the newest L+1 of each such stretch are witnesses. Take any series C that is
// left after only trusted points were removed that are no witnesses. If some doubtful point of C had more than L trusted ones
// against it, L+1 of them are still there: C gives up more than it gains, and is not the longest. Otherwise all that was
// ever against C is still there, and C loses as it did before. So removing what the plan removes, or any part of it,
// changes no point's standing, and a second plan removes nothing more.
//
// A clock is asked last, and can only add doubt: a point is trusted if it is both among all points and among those that do
// not lie in the future. So a caller whose own clock is wrong removes no point that would have stayed without it.
func hear(points []Point, now time.Time) *testimony {
	t := vote(points, time.Time{})
	if now.IsZero() {
		return t
	}
	u := vote(points, now)
	for i, d := range u.doubts {
		t.witness[i] = t.witness[i] || u.witness[i]
		if t.doubts[i] == nil || d != nil && d.Kind == Future {
			t.doubts[i] = d
		}
	}
	t.trusted = slices.DeleteFunc(t.trusted, func(i int) bool { return t.doubts[i] != nil })
	return t
}

// vote is hear for those points that do not lie in the future; zero: for all.
func vote(points []Point, now time.Time) *testimony {
	t := &testimony{doubts: make([]*Doubt, len(points)), witness: make([]bool, len(points))}
	var usable []int
	for i := range points {
		if t.doubts[i] = doubtAlone(points[i].Time, now); t.doubts[i] == nil {
			usable = append(usable, i)
		}
	}
	t.trusted = longestSeries(points, usable)
	if len(t.trusted) < len(usable) {
		t.confront(points, outside(usable, t.trusted))
	}
	return t
}

// doubtAlone is what can be said against a time without looking at others.
func doubtAlone(at, now time.Time) *Doubt {
	if at.IsZero() || at.UTC().Year() < 1 || at.UTC().Year() > 9999 {
		return &Doubt{Kind: NoTime}
	}
	if !now.IsZero() && at.After(now.Add(FutureSlack)) {
		return &Doubt{Kind: Future}
	}
	return nil
}

// confront finds what each doubtful point contradicts, and names the witnesses.
func (t *testimony) confront(points []Point, doubtful []int) {
	most := len(longestSeries(points, doubtful)) + 1
	next := make([]int, len(t.trusted)+1) // next[i] leads to the first place from i on that is no witness yet
	for i := range next {
		next[i] = i
	}
	for _, d := range doubtful {
		from, to, kind := t.against(points, d)
		t.doubts[d] = &Doubt{Kind: kind, Point: points[t.trusted[to-1]].ID}
		for i := follow(next, max(from, to-most)); i < to; i = follow(next, i) {
			t.witness[t.trusted[i]] = true
			next[i] = i + 1
		}
	}
}

// against returns the stretch of the trusted series that contradicts the doubtful point d: those right after it in the log
// that are earlier, or those right before it that are later. It is never empty: otherwise d would make the series longer.
func (t *testimony) against(points []Point, d int) (from, to int, kind DoubtKind) {
	at := points[d].Time
	after := sort.SearchInts(t.trusted, d)
	notEarlier := sort.Search(len(t.trusted), func(i int) bool { return !points[t.trusted[i]].Time.Before(at) })
	if notEarlier > after {
		return after, notEarlier, Later
	}
	later := sort.Search(len(t.trusted), func(i int) bool { return points[t.trusted[i]].Time.After(at) })
	if later >= after {
		panic("retention: a point outside the longest series contradicts none of it")
	}
	return later, after, Before
}

func follow(next []int, i int) int {
	for next[i] != i {
		next[i] = next[next[i]]
		i = next[i]
	}
	return i
}

// longestSeries returns the longest part of candidates (ascending) in which times never step back; of several the one that
// has the newer point where they first differ, seen from the newest.
func longestSeries(points []Point, candidates []int) []int {
	ends := make([]time.Time, 0, len(candidates)) // ends[k]: the earliest end of a series of k+1
	length := make([]int, len(candidates))        // of the longest series that ends here
	for i, c := range candidates {
		at := points[c].Time
		k := sort.Search(len(ends), func(k int) bool { return ends[k].After(at) })
		if k == len(ends) {
			ends = append(ends, at)
		}
		ends[k] = at
		length[i] = k + 1
	}
	series := make([]int, 0, len(ends))
	for i := len(candidates) - 1; i >= 0; i-- {
		if length[i] != len(ends)-len(series) {
			continue
		}
		if n := len(series); n > 0 && points[candidates[i]].Time.After(points[series[n-1]].Time) {
			continue
		}
		series = append(series, candidates[i])
	}
	slices.Reverse(series)
	return series
}

// outside returns what of all is not in some; both ascend.
func outside(all, some []int) []int {
	var rest []int
	for _, i := range all {
		if len(some) > 0 && some[0] == i {
			some = some[1:]
			continue
		}
		rest = append(rest, i)
	}
	return rest
}
