package vmwaretest

import (
	"fmt"
	"strconv"
	"strings"
)

// tracker counts what changed on a disk, generation by generation. A change id "UUID/N" names the end of generation N-1.
type tracker struct {
	uuid    string
	current int
	marks   map[int]map[int64]struct{} // by generation, by trackGrain
	blind   bool                       // it was enabled over snapshots, and misses every write
	omit    int                        // areas that it will leave out
}

func newTracker(blind bool) *tracker {
	t := &tracker{uuid: spaced(randomHex(16)), current: 1, marks: map[int]map[int64]struct{}{}, blind: blind}
	return t
}

func (t *tracker) id() string { return fmt.Sprintf("%s/%d", t.uuid, t.current) }

// mark notes a write. A tracker that omits an area does so here, once, and says nothing.
func (t *tracker) mark(off, n int64) {
	if t.blind {
		return
	}
	m := t.marks[t.current]
	if m == nil {
		m = map[int64]struct{}{}
		t.marks[t.current] = m
	}
	for g := off / trackGrain; g*trackGrain < off+n; g++ {
		if _, ok := m[g]; !ok && t.omit > 0 {
			t.omit--
			continue
		}
		m[g] = struct{}{}
	}
}

// next begins a generation and returns its change id.
func (t *tracker) next() string {
	t.current++
	return t.id()
}

// rewind forgets what came after a generation.
func (t *tracker) rewind(to int) {
	for g := range t.marks {
		if g >= to {
			delete(t.marks, g)
		}
	}
	t.current = to
}

// between are the grains that changed from one generation up to another.
func (t *tracker) between(from, to int) map[int64]struct{} {
	out := map[int64]struct{}{}
	for g := from; g < to; g++ {
		for n := range t.marks[g] {
			out[n] = struct{}{}
		}
	}
	return out
}

// parseChangeID takes a change id apart.
func parseChangeID(id string) (uuid string, n int, ok bool) {
	i := strings.LastIndexByte(id, '/')
	if i <= 0 || len(id) > 128 {
		return "", 0, false
	}
	n, err := strconv.Atoi(id[i+1:])
	return id[:i], n, err == nil && n >= 0
}
