//go:build linux

package main

import (
	"fmt"
	"strings"
)

// field picks one number of a cost.
type field func(cost) float64

func wallOf(c cost) float64 { return c.Wall }
func cpuOf(c cost) float64  { return c.CPU }

// ratio is the median over the rounds of a's number by b's, and false where no round has both.
func (r *record) ratio(step, a, b string, f field) (float64, bool) {
	var list []float64
	for _, round := range r.Rounds {
		ca, oka := round.cost(a, step)
		cb, okb := round.cost(b, step)
		if oka && okb && f(cb) > 0 {
			list = append(list, f(ca)/f(cb))
		}
	}
	return median(list), len(list) > 0
}

func (r round) cost(name, step string) (cost, bool) {
	if r[name] == nil {
		return cost{}, false
	}
	c, ok := r[name].Steps[step]
	return c, ok
}

// each collects one number of a contestant's step over the rounds.
func each[T int64 | float64](r *record, name, step string, pick func(*score, cost) T) (list []T) {
	for _, round := range r.Rounds {
		if c, ok := round.cost(name, step); ok {
			list = append(list, pick(round[name], c))
		}
	}
	return list
}

func (r *record) typical(name, step string, f field) float64 {
	return median(each(r, name, step, func(_ *score, c cost) float64 { return f(c) }))
}

func (r *record) repository(name, after string) int64 {
	return median(each(r, name, after, func(s *score, _ cost) int64 { return s.Sizes[after] }))
}

// bar is one line of the table that says whether we are as good as we set out to be.
type bar struct {
	what, want, got string
	known, met      bool
}

func (b bar) verdict() string {
	switch {
	case !b.known:
		return "not measured"
	case b.met:
		return "met"
	}
	return "**short**"
}

// bars are the project's own aims, first line to last.
func (r *record) bars() []bar {
	return []bar{
		r.against("first full backup, defaults", stepFull, nameHikae, []limitOf{
			{nameRestic, "CPU", cpuOf, 1. / 2}, {nameRestic, "wall", wallOf, 1 / 2.5},
			{nameBorg, "CPU", cpuOf, 1. / 2}, {nameBorg, "wall", wallOf, 1 / 2.5}}),
		r.against("first full backup, --compression fast", stepFull, nameFast, []limitOf{
			{nameRestic, "CPU", cpuOf, 1. / 4}, {nameRestic, "wall", wallOf, 1. / 5}}),
		r.sizeBar(),
		r.against("next day, changes known", stepNext, nameKnown, []limitOf{
			{nameRestic, "CPU", cpuOf, 1. / 6}, {nameRestic, "wall", wallOf, 1. / 6}}),
		r.readBar(),
		r.against("next day, changes unknown", stepNext, nameHikae, []limitOf{
			{nameRestic, "CPU", cpuOf, 1. / 3}, {nameRestic, "wall", wallOf, 1. / 3}}),
		r.against("restore to raw", stepRestore, nameHikae, []limitOf{{nameRestic, "wall", wallOf, 1. / 2}}),
		r.holesBar(),
		r.limitBar(),
		r.parallelBar(),
		r.memoryBar(),
		r.sparseBar(),
		r.verifyBar(),
		r.startupBar(),
		r.against("first full backup, swap and free space left out", stepFull, nameLean, []limitOf{
			{nameRestic, "CPU", cpuOf, 1. / 3}, {nameRestic, "wall", wallOf, 1. / 4}}),
		r.leanSizeBar(),
		r.busyBar(),
		r.analysisBar(),
		r.singleFileBar(),
	}
}

// limitOf is one peer's number and the share of it that may be taken.
type limitOf struct {
	peer, word string
	f          field
	most       float64
}

func (r *record) against(what, step, name string, limits []limitOf) bar {
	b := bar{what: what, known: true, met: true}
	var want, got []string
	for _, l := range limits {
		ratio, ok := r.ratio(step, name, l.peer, l.f)
		b.known = b.known && ok
		b.met = b.met && ratio <= l.most
		want = append(want, fmt.Sprintf("%s ≤ 1/%.3g of %s", l.word, 1/l.most, l.peer))
		if ok {
			got = append(got, fmt.Sprintf("%s %s of %s", l.word, fraction(ratio), l.peer))
		}
	}
	b.want, b.got = strings.Join(want, ", "), strings.Join(got, ", ")
	return b
}

func fraction(ratio float64) string {
	if ratio <= 0 {
		return "0"
	}
	return fmt.Sprintf("1/%.2f", 1/ratio)
}

func (r *record) sizeBar() bar {
	ours, restic, borg := r.repository(nameHikae, stepOther), r.repository(nameRestic, stepOther), r.repository(nameBorg, stepOther)
	b := bar{what: "repository after the three disks, parity included", want: "≤ 1.15 × the smallest peer"}
	if ours == 0 || restic == 0 || borg == 0 {
		return b
	}
	ratio := float64(ours) / float64(min(restic, borg))
	b.known, b.met, b.got = true, ratio <= 1.15, fmt.Sprintf("%.2f × (%s against %s)", ratio, size(ours), size(min(restic, borg)))
	return b
}

func (r *record) readBar() bar {
	b := bar{what: "next day, changes known: bytes read", want: "≤ 1.1 × the changed blocks"}
	read := median(each(r, nameKnown, stepNext, func(s *score, _ cost) int64 { return s.Read[stepNext] }))
	if read == 0 {
		return b
	}
	ratio := float64(read) / float64(r.Fixture.Blocks)
	b.known, b.met, b.got = true, ratio <= 1.1, fmt.Sprintf("%.2f × (%s of %s)", ratio, size(read), size(r.Fixture.Blocks))
	return b
}

func (r *record) holesBar() bar {
	b := bar{what: "restore to raw: holes stay holes", want: "≤ 1.02 × the bytes allocated in the original"}
	restored := median(each(r, nameHikae, stepRestore, func(s *score, _ cost) int64 { return s.Restored }))
	if restored == 0 {
		return b
	}
	ratio := float64(restored) / float64(r.Fixture.Used["day2"])
	b.known, b.met, b.got = true, ratio <= 1.02, fmt.Sprintf("%.2f ×", ratio)
	return b
}

func (r *record) limitSeconds() float64 {
	var sums []float64
	for _, parts := range r.Limits {
		sum := 0.0
		for _, p := range parts {
			sum += p.Seconds
		}
		sums = append(sums, sum)
	}
	return median(sums)
}

func (r *record) limitBar() bar {
	b := bar{what: "close to the limit: CPU of a full backup", want: "≤ 1.25 × the sum of its parts timed alone"}
	ours, sum := r.typical(nameHikae, stepFull, cpuOf), r.limitSeconds()
	if ours == 0 || sum == 0 {
		return b
	}
	b.known, b.met, b.got = true, ours <= 1.25*sum, fmt.Sprintf("%.2f × (%.1f s against %.1f s)", ours/sum, ours, sum)
	return b
}

func (r *record) parallelBar() bar {
	b := bar{what: "parallel: share of the cores busy during a full backup", want: "≥ 85 %"}
	busy := median(each(r, nameHikae, stepFull, func(_ *score, c cost) float64 { return c.CPU / c.Wall / float64(r.CPUs) }))
	if busy == 0 {
		return b
	}
	b.known, b.met, b.got = true, busy >= 0.85, fmt.Sprintf("%.0f %%", 100*busy)
	return b
}

// memoryBar allows 24 bytes for each block of the three disks, were they all different.
func (r *record) memoryBar() bar {
	b := bar{what: "memory at the peak, over all commands", want: "≤ 256 MiB + 24 B per block in the repository"}
	most := int64(0)
	for _, step := range steps {
		for _, name := range []string{nameHikae, nameFast, nameKnown, nameLean} {
			for _, rss := range each(r, name, step, func(_ *score, c cost) int64 { return c.RSS }) {
				most = max(most, rss)
			}
		}
	}
	if most == 0 {
		return b
	}
	blocks := (r.Fixture.Used["day1"] + r.Fixture.Used["day2"] + r.Fixture.Used["other"]) / blockSize
	limit := 256<<20 + 24*blocks
	b.known, b.met, b.got = true, most <= limit, fmt.Sprintf("%.1f MiB of %.1f", float64(most)/(1<<20), float64(limit)/(1<<20))
	if r.Startup != nil {
		big := max(r.Startup.Fill.RSS, r.Startup.Restore.RSS)
		b.met = b.met && big <= 256<<20+24*int64(r.Startup.Blocks)
		b.got += fmt.Sprintf("; with %d blocks %s", r.Startup.Blocks, size(big))
	}
	return b
}

func (r *record) sparseBar() bar {
	b := bar{what: "a sparse 8 TiB disk with 1 GiB of data", want: "≤ 10 s over the 1 GiB disk's time"}
	if r.Sparse == nil {
		return b
	}
	over := r.Sparse.Huge.Wall - r.Sparse.Small.Wall
	b.known, b.met = true, over <= 10
	b.got = fmt.Sprintf("%+.1f s (%.1f s against %.1f s, %s at the peak)", over, r.Sparse.Huge.Wall, r.Sparse.Small.Wall, size(r.Sparse.Huge.RSS))
	return b
}

// verifyBar counts each block once, as verify does, and CPU seconds, not wall.
func (r *record) verifyBar() bar {
	b := bar{what: "verify --data all, original bytes", want: "≥ 400 MB/s per core"}
	speed := median(each(r, nameHikae, stepVerify, func(s *score, c cost) float64 { return float64(s.Unique) / 1e6 / c.CPU }))
	if speed == 0 {
		return b
	}
	b.known, b.met, b.got = true, speed >= 400, fmt.Sprintf("%.0f MB/s per core", speed)
	return b
}

func (r *record) startupBar() bar {
	b := bar{what: "points, stats and the start of a restore on 10⁶ blocks", want: "≤ 1 s each"}
	if r.Startup == nil {
		return b
	}
	s := r.Startup
	b.known, b.met = s.Blocks >= 1_000_000, max(s.Points.Wall, s.Stats.Wall, s.Restore.Wall) <= 1
	b.got = fmt.Sprintf("points %.2f s, stats %.2f s, restore %.2f s (%d blocks)", s.Points.Wall, s.Stats.Wall, s.Restore.Wall, s.Blocks)
	return b
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d B", n)
}
