package retention

import (
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"time"
)

// model says by brute force which of a VM's points stay, given in log order: every subset is tried for the trusted series, every
// pair for contradictions, and periods are compared as texts that the time package writes. It shares no code with what it checks.
func model(points []Point, p Policy, loc *time.Location, now time.Time) map[string]bool {
	keep := make(map[string]bool)
	for i, a := range points {
		stays := len(points)-i <= p.Last || len(a.Holds) > 0
		for _, tag := range a.Tags {
			stays = stays || slices.Contains(p.Tags, tag)
		}
		better := true
		for _, b := range points[i+1:] {
			better = better && modelWorth(b) < modelWorth(a)
		}
		if stays || better {
			keep[a.ID] = true
		}
	}
	if p.Hourly+p.Daily+p.Weekly+p.Monthly+p.Yearly == 0 && p.Within == 0 {
		return keep
	}
	trusted := modelTrust(points, time.Time{}, keep)
	inThePast := modelTrust(points, now, keep)
	trusted = slices.DeleteFunc(trusted, func(a Point) bool {
		return !slices.ContainsFunc(inThePast, func(b Point) bool { return a.ID == b.ID })
	})
	for n, label := range map[*int]func(time.Time) string{
		&p.Hourly: modelHour, &p.Daily: modelFormat("2006-01-02"), &p.Weekly: modelWeek,
		&p.Monthly: modelFormat("2006-01"), &p.Yearly: modelFormat("2006"),
	} {
		modelPeriods(trusted, *n, func(t time.Time) string { return label(t.In(loc)) }, keep)
	}
	for _, a := range trusted {
		newer := 0
		for _, b := range trusted {
			if b.Time.Sub(a.Time) > p.Within {
				newer++
			}
		}
		if p.Within > 0 && newer < 2 {
			keep[a.ID] = true
		}
	}
	return keep
}

func modelWorth(p Point) int {
	if !p.Whole {
		return -1
	}
	return min(int(p.Consistency), int(Application))
}

func contradict(earlier, later Point) bool { return earlier.Time.After(later.Time) }

// modelTrust marks the doubtful and their witnesses as kept, and returns all that are trusted.
func modelTrust(points []Point, now time.Time, keep map[string]bool) []Point {
	var usable []Point
	for _, a := range points {
		if a.Time.IsZero() || !now.IsZero() && a.Time.Sub(now) > 24*time.Hour {
			keep[a.ID] = true
			continue
		}
		usable = append(usable, a)
	}
	set := modelSeries(usable, 1<<len(usable)-1)
	rest := (1<<len(usable) - 1) &^ set
	most := bits.OnesCount(uint(modelSeries(usable, rest))) + 1
	var trusted []Point
	for i, a := range usable {
		if set&(1<<i) != 0 {
			trusted = append(trusted, a)
			continue
		}
		keep[a.ID] = true
		left := most
		for j := len(usable) - 1; j >= 0 && left > 0; j-- {
			against := j > i && contradict(a, usable[j]) || j < i && contradict(usable[j], a)
			if set&(1<<j) != 0 && against {
				keep[usable[j].ID] = true
				left--
			}
		}
	}
	return trusted
}

// modelSeries tries every subset of among. A larger number of the same many bits has the newer points.
func modelSeries(points []Point, among int) int {
	best := 0
	for set := 0; set <= among; set++ {
		if set&^among != 0 || bits.OnesCount(uint(set)) < bits.OnesCount(uint(best)) {
			continue
		}
		ordered := true
		for i := range points {
			for j := i + 1; j < len(points); j++ {
				both := 1<<i | 1<<j
				ordered = ordered && (set&both != both || !contradict(points[i], points[j]))
			}
		}
		if ordered {
			best = set
		}
	}
	return best
}

func modelPeriods(trusted []Point, n int, label func(time.Time) string, keep map[string]bool) {
	var names []string
	for _, a := range trusted {
		names = append(names, label(a.Time))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names[max(0, len(names)-n):] {
		chosen := -1
		for i, a := range trusted {
			if label(a.Time) == name && (chosen < 0 || a.Whole || !trusted[chosen].Whole) {
				chosen = i
			}
		}
		keep[trusted[chosen].ID] = true
	}
}

func modelFormat(layout string) func(time.Time) string {
	return func(t time.Time) string { return t.Format(layout) }
}

func modelWeek(t time.Time) string {
	year, week := t.ISOWeek()
	return fmt.Sprintf("%04d %02d", year, week)
}

// modelHour begins with the instant of the hour's minute zero, so that texts sort as hours do.
func modelHour(t time.Time) string {
	_, offset := t.Zone()
	start := t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	return fmt.Sprintf("%s %06d %s", start.UTC().Format(time.RFC3339), 100_000-offset, t.Format("15"))
}

func modelKept(keep map[string]bool) string {
	var list []string
	for id := range keep {
		list = append(list, id)
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}
