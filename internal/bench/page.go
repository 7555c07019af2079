//go:build linux

package main

import (
	"fmt"
	"strings"
)

// order of the contestants on the page.
var order = []string{nameHikae, nameFast, nameKnown, nameLean, nameRestic, nameBorg, nameQemu}

// page is docs/benchmarks.md, whole.
func page(r *record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\nWritten by `make bench` on %s; do not edit. A figure here is the median of %d rounds, a ratio the median of the\n"+
		"rounds' ratios. [How it is measured](../internal/bench/doc.go).\n\n", r.Time.Format("2006-01-02"), len(r.Rounds))
	r.barTable(&b)
	if len(r.Failures) > 0 {
		b.WriteString("\n## What failed\n\n")
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "- %s\n", f)
		}
	}
	b.WriteString("\n## Figures\n\n")
	b.WriteString(figures(r))
	r.limitTable(&b)
	r.setting(&b)
	return b.String()
}

func (r *record) barTable(b *strings.Builder) {
	b.WriteString("## Against the aims\n\n| what | aim | measured | |\n|---|---|---|---|\n")
	short := 0
	for _, bar := range r.bars() {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", bar.what, bar.want, bar.got, bar.verdict())
		if bar.known && !bar.met {
			short++
		}
	}
	fmt.Fprintf(b, "\n%d fall short.\n", short)
	half, sum := r.typical(nameBorg, stepFull, cpuOf)/2, r.limitSeconds()
	if half > 0 && half < sum {
		fmt.Fprintf(b, "\nHalf of borg's CPU time for a full backup is %.1f s, below the limit of %.1f s that the parts take alone (see below):\n"+
			"that aim cannot be met with these parts.\n", half, sum)
	}
}

// figures is the table of what was measured, in the programs' own units.
func figures(r *record) string {
	var b strings.Builder
	b.WriteString("| step | program | wall s | CPU s | peak memory | read(2) | repository after it |\n|---|---|--:|--:|--:|--:|--:|\n")
	for _, step := range steps {
		for _, name := range order {
			if len(each(r, name, step, func(_ *score, c cost) float64 { return c.Wall })) == 0 {
				continue
			}
			rss := median(each(r, name, step, func(_ *score, c cost) int64 { return c.RSS }))
			read := median(each(r, name, step, func(_ *score, c cost) int64 { return c.Read }))
			fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %s | %s | %s |\n", step, name, r.typical(name, step, wallOf),
				r.typical(name, step, cpuOf), size(rss), size(read), size(r.repository(name, step)))
		}
	}
	return b.String()
}

func (r *record) limitTable(b *strings.Builder) {
	if len(r.Limits) == 0 {
		return
	}
	b.WriteString("\n## The limit\n\nWhat a full backup of the first disk cannot do without, each part alone on the bytes that it has to handle:\n\n" +
		"| part | bytes | CPU s | MB/s |\n|---|--:|--:|--:|\n")
	for i, first := range r.Limits[0] {
		var list []float64
		for _, parts := range r.Limits {
			list = append(list, parts[i].Seconds)
		}
		s := median(list)
		fmt.Fprintf(b, "| %s | %s | %.2f | %.0f |\n", first.Name, size(first.Bytes), s, float64(first.Bytes)/1e6/max(s, 1e-9))
	}
	fmt.Fprintf(b, "| sum | | %.2f | |\n", r.limitSeconds())
}

func (r *record) setting(b *strings.Builder) {
	fmt.Fprintf(b, "\n## Input and machine\n\nDisks of 8 GiB with one ext4 partition, made from Debian packages (day1: %d packages, other: %d), with logs, a database\n"+
		"file, pictures, a swap file and deleted files. Data on them: day1 %s, day2 %s, other %s. Between day1 and day2 %s\n"+
		"changed in blocks of 4 KiB, which is %s in blocks of 256 KiB.\n\n",
		r.Fixture.Packages["day1"], r.Fixture.Packages["other"], size(r.Fixture.Used["day1"]), size(r.Fixture.Used["day2"]),
		size(r.Fixture.Used["other"]), size(r.Fixture.Changed), size(r.Fixture.Blocks))
	fmt.Fprintf(b, "%d × %s, %s of memory, %s, %s. Load of the machine before each\nround (1, 5, 15 minutes): %s. Above 1 or so, wall times say little, and the share of busy cores nothing.\n\n| program | version | called with |\n|---|---|---|\n",
		r.CPUs, r.CPU, size(r.Memory), r.Versions["kernel"], r.Versions["go"], strings.Join(r.Load, "; "))
	for _, name := range order {
		if settings, ok := r.Settings[name]; ok {
			version, _, _ := strings.Cut(name, " ")
			fmt.Fprintf(b, "| %s | %s | %s |\n", name, r.Versions[version], settings)
		}
	}
}
