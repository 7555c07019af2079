package pipe

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Progress is how far a copy has come, in bytes of the image.
type Progress struct {
	Total, Done int64 // Done counts what is settled: written, marked or found unchanged
	Stats       Stats
}

// Stats is what a copy did. Sizes are bytes.
type Stats struct {
	Size         int64          `json:"size"`          // of the image
	Read         int64          `json:"read"`          // read from the image
	Skipped      map[Kind]int64 `json:"skipped"`       // never moved, by reason: Zero (found by reading or by extents), Free, Swap, Excluded, Bad, Unchanged
	Bad          []Extent       `json:"bad,omitempty"` // ranges that could not be read, to the sector: where OnReadError allowed it, or as the image says
	Deduplicated int64          `json:"deduplicated"`  // plain bytes that the target already had
	Moved        int64          `json:"moved"`         // plain bytes handed to the target
	Stored       int64          `json:"stored"`        // as added to the target's store, without parity
	Random       int64          `json:"random"`        // of Moved: plain bytes of blocks that look like chance, compressed or encrypted: see LooksRandom
	Stages       []StageStat    `json:"stages"`        // in the order of the flow
	Duration     time.Duration  `json:"nanoseconds"`
}

// StageStat is how busy one stage was.
type StageStat struct {
	Name string  `json:"name"` // read, exclude, fingerprint, deduplicate, compress, send, write
	Side string  `json:"side"` // source, pipe, network or target: what the bottleneck line names
	Busy float64 `json:"busy"` // 0…1: share of the copy's time that the stage's workers were at work
}

// The sides of a copy.
const (
	SideSource  = "source"
	SidePipe    = "pipe" // the machine that the copy runs on: the proxy
	SideNetwork = "network"
	SideTarget  = "target"
)

// fullLine is the share of a copy's time from which on its line is what it waited for.
const fullLine = 0.7

// Bottleneck names the side that was busiest: source, pipe, network or target. It is empty where nothing was measured.
//
// The stages of the pipe share their workers, so their shares add up; those of the other sides have workers of their
// own, and the busiest one counts. Who writes to a target behind a line waits for the line too: that much is the network's, where the
// line was full most of the time; a target that is slow to take what comes fills its line for moments.
func (s *Stats) Bottleneck() string {
	busy := map[string]float64{}
	for _, st := range s.Stages {
		if st.Side == SidePipe {
			busy[st.Side] += st.Busy
		} else {
			busy[st.Side] = max(busy[st.Side], st.Busy)
		}
	}
	if busy[SideNetwork] < fullLine {
		busy[SideNetwork] = 0
	}
	busy[SideTarget] = max(0, busy[SideTarget]-busy[SideNetwork])
	side := ""
	for _, name := range []string{SideSource, SidePipe, SideNetwork, SideTarget} {
		if busy[name] > busy[side] {
			side = name
		}
	}
	return side
}

// stage is one step of the flow.
type stage int

const (
	stageRead stage = iota
	stageExclude
	stageFingerprint
	stageDeduplicate
	stageCompress
	stageWrite
	stageCount
)

var stageNames = [stageCount]struct{ name, side string }{
	{"read", SideSource}, {"exclude", SidePipe}, {"fingerprint", SidePipe},
	{"deduplicate", SideTarget}, {"compress", SidePipe}, {"write", SideTarget},
}

// maxBad bounds the list of bad ranges: a disk with more is not worth calling a backup.
const maxBad = 100_000

var errTooManyBad = errors.New("too many bad ranges")

// meters are the counters of a copy under way. All of them may be used at once by all stages.
type meters struct {
	size    int64
	start   time.Time
	workers [stageCount]int // zero: the stage is not part of this copy

	line  func() time.Duration // nil: the target is not behind one
	begun time.Duration        // of the line, when the copy began

	walk                                        atomic.Int64 // nanoseconds in the image's extents, by one goroutine
	spent                                       [stageCount]atomic.Int64
	read, dedup, moved, stored, random, settled atomic.Int64
	skipped                                     [Unchanged + 1]atomic.Int64

	mu  sync.Mutex
	bad []Extent
	end time.Time
}

// clock measures one piece of work of a stage: defer-free, because it runs several times per block.
func (m *meters) clock(s stage, since time.Time) { m.spent[s].Add(int64(time.Since(since))) }

// settle counts bytes that need no more work.
func (m *meters) settle(n int64) { m.settled.Add(n) }

// skip counts a marked or left-out range as settled.
func (m *meters) skip(e Extent) {
	m.skipped[e.Kind].Add(e.Len)
	m.settle(e.Len)
}

func (m *meters) addBad(list ...Extent) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bad = append(m.bad, list...)
	if len(m.bad) > maxBad {
		e := list[len(list)-1]
		return &RangeError{Op: "read", Off: e.Off, Len: e.Len, Err: errTooManyBad}
	}
	return nil
}

func (m *meters) finish() {
	m.mu.Lock()
	m.end = time.Now()
	m.mu.Unlock()
}

// stats is a copy of the counters as they are now.
func (m *meters) stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	wall := time.Since(m.start)
	if !m.end.IsZero() {
		wall = m.end.Sub(m.start)
	}
	s := Stats{
		Size: m.size, Read: m.read.Load(), Skipped: map[Kind]int64{}, Bad: mergeExtents(m.bad),
		Deduplicated: m.dedup.Load(), Moved: m.moved.Load(), Stored: m.stored.Load(), Random: m.random.Load(), Duration: wall,
	}
	for k := range m.skipped {
		if n := m.skipped[k].Load(); n > 0 {
			s.Skipped[Kind(k)] = n
		}
	}
	for i, n := range m.workers {
		if stage(i) == stageWrite && m.line != nil {
			s.Stages = append(s.Stages, StageStat{"send", SideNetwork, max(0, min(1, ratio(int64(m.line()-m.begun), int64(wall))))})
		}
		if n > 0 {
			s.Stages = append(s.Stages, StageStat{stageNames[i].name, stageNames[i].side, m.busy(stage(i), wall)})
		}
	}
	return s
}

func (m *meters) busy(s stage, wall time.Duration) float64 {
	share := ratio(m.spent[s].Load(), int64(wall)*int64(m.workers[s]))
	if s == stageExclude { // the walk is one goroutine of its own beside the workers that look for zeros
		share = max(share, ratio(m.walk.Load(), int64(wall)))
	}
	return min(share, 1)
}

func ratio(a, b int64) float64 {
	if b <= 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// mergeExtents returns the extents in order, neighbours of one kind joined.
func mergeExtents(list []Extent) []Extent {
	var out []Extent
	for _, e := range slices.SortedFunc(slices.Values(list), func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) }) {
		if n := len(out); n > 0 && out[n-1].End() == e.Off && out[n-1].Kind == e.Kind {
			out[n-1].Len += e.Len
			continue
		}
		out = append(out, e)
	}
	return out
}
