package retention

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// MaxPoints bounds the points of one call of [Decide].
const MaxPoints = 1 << 20

// Point is what retention needs to know of a restore point.
type Point struct {
	ID   string
	VM   string
	Log  uint64    // the number of the record that committed it: the order of points
	Time time.Time // when the VM was in this state; zero if that is not known
	// Holds are the names of what holds the point, each enough to keep it.
	Holds []string
	// Tags are matched against [Policy.Tags], to the byte.
	Tags []string
	// Consistency is as reached. A value that is not known here counts as Unknown.
	Consistency Consistency
	// Whole is false for a point with holes: parts that its source could not read, or that were lost since.
	Whole bool
}

// Consistency is what a point is good for. The numbers are those of the library's root package.
type Consistency int

// From the least to the most. Application and Offline are worth the same: neither needs a recovery.
const (
	Unknown Consistency = iota
	Crash
	Filesystem
	Application
	Offline
)

// grade orders points by what a restore would give. Points with holes are all alike: nobody can tell what is missing.
func (p *Point) grade() int {
	if !p.Whole {
		return 0
	}
	switch p.Consistency {
	case Crash:
		return 2
	case Filesystem:
		return 3
	case Application, Offline:
		return 4
	}
	return 1
}

var gradeWords = [...]string{
	"with holes",
	"whole",
	"whole and at least crash-consistent",
	"whole and at least filesystem-consistent",
	"whole and application-consistent",
}

// histories checks the points and returns them by VM, each history in the order of the log.
func histories(points []Point) ([][]Point, error) {
	if len(points) > MaxPoints {
		return nil, &HistoryError{Reason: "more points than one call takes"}
	}
	sorted := slices.Clone(points)
	slices.SortFunc(sorted, func(a, b Point) int {
		if c := strings.Compare(a.VM, b.VM); c != 0 {
			return c
		}
		return cmp.Compare(a.Log, b.Log)
	})
	seen := make(map[string]bool, len(sorted))
	var all [][]Point
	start := 0
	for i := range sorted {
		p := &sorted[i]
		p.Time = p.Time.Round(0) // a monotonic reading would decide comparisons
		switch {
		case p.ID == "":
			return nil, p.bad("has no id")
		case seen[p.ID]:
			return nil, p.bad("its id stands in the list twice")
		case i > start && p.VM == sorted[i-1].VM && p.Log == sorted[i-1].Log:
			return nil, p.bad("another point has the same record")
		}
		seen[p.ID] = true
		if i > start && p.VM != sorted[i-1].VM {
			all = append(all, sorted[start:i:i])
			start = i
		}
	}
	if len(sorted) > 0 {
		all = append(all, sorted[start:])
	}
	return all, nil
}

func (p *Point) bad(reason string) error {
	return &HistoryError{VM: p.VM, ID: p.ID, Log: p.Log, Reason: reason}
}
