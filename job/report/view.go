package report

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae/job"
)

// view is a report laid out: what the text and the page both show.
type view struct {
	Title, VM     string
	Status, Class string
	Error         string
	Facts         []fact
	Cards         []fact
	Bottleneck    string
	Stages        []bar
	Phases        []bar
	Flow          []bar
	Disks         table
	Volumes       table
	Fallbacks     table
	Routes        table
	Holes         table
	Checks        table
	Screen        template.URL // of a picture that is in the page itself
	Serial        string
	Remarks       []string
	Warnings      []string
	Notes         []string
	Trend         []Past
}

type fact struct{ Name, Value, More string }

// bar is one bar of a chart: where it starts and how long it is, as shares of the whole.
type bar struct {
	Name, Value, Class string
	From, Share        float64
}

type table struct {
	Head []string
	Rows [][]string
}

func (r *Report) view() *view {
	v := &view{Error: r.Error, VM: r.VM(), Trend: r.Trend}
	v.Status, v.Class = r.status()
	switch {
	case r.Backup != nil:
		r.viewBackup(v, r.Backup)
	case r.Restore != nil:
		r.viewRestore(v, r.Restore)
	case r.Boot != nil:
		r.viewBoot(v, r.Boot)
	}
	return v
}

func (r *Report) viewBackup(v *view, b *job.Result) {
	sum := sumOf(b.Disks)
	v.Title = "Backup of " + b.VM
	v.Facts = []fact{
		{"Started", stamp(b.Started), ""}, {"Session", b.Session, ""}, {"Point", or(b.Point, "none was made"), ""}, {"Base", or(b.Base, "none"), ""},
	}
	if b.Target != "" {
		v.Facts = append(v.Facts, fact{"Target", b.Target, ""})
	}
	if how := b.Facts["procedure"]; how != "" { // of a hypervisor that has several
		if mode := b.Facts["mode"]; mode != "" {
			how += ", " + mode
		}
		v.Facts = append(v.Facts, fact{"Procedure", how, ""})
	}
	v.Cards = []fact{
		{"Disks", size(sum.Size), count(len(b.Disks), "disk")},
		{"Read", size(sum.Read), percent(part(sum.Read, sum.Size)) + " of the disks"},
		{"Moved", size(sum.Moved), r.beside("new data, before compression", func(u *Usual) string { return size(int64(u.Moved)) })},
		{"Stored", size(sum.Stored), r.beside("and "+size(max(b.Parity, sum.Parity))+" of parity", func(u *Usual) string { return size(int64(u.Stored)) })},
		{"Deduplication", ratio(sum.Moved+sum.Deduplicated, sum.Moved), size(sum.Deduplicated) + " was there already"},
		{"Compression", ratio(sum.Moved, sum.Stored), size(sum.Moved) + " → " + size(sum.Stored)},
		{"Time", duration(b.Seconds), r.beside(rate(sum.Size, b.Seconds)+" of disk", func(u *Usual) string { return duration(u.Seconds) })},
		{"Consistency", b.Consistency, consistencyWords[b.Consistency]},
	}
	v.Bottleneck = bottleneck(b.Bottleneck, b.Stages, false)
	v.Stages, v.Phases, v.Flow = stageBars(b.Stages), phaseBars(b.Phases), flowBars(sum)
	v.Disks, v.Volumes = diskTable(b.Disks), volumeTable(b.Volumes)
	for _, m := range r.Remarks {
		v.Remarks = append(v.Remarks, m.Text)
	}
	v.Warnings, v.Notes = b.Warnings, b.Notes
	if why := b.Facts["reasons"]; why != "" {
		v.Notes = append(slices.Clip(v.Notes), "why it was backed up so: "+why)
	}
	v.Fallbacks.Head = []string{"Disk", "From", "To", "Why"}
	for _, f := range b.Fallbacks {
		v.Fallbacks.Rows = append(v.Fallbacks.Rows, []string{f.Disk, string(f.From), string(f.To), f.Reason})
	}
	v.Routes = routeTable(b.Disks)
}

// routeTable is how the disks were reached, where there were several ways.
func routeTable(disks []job.DiskResult) (t table) {
	t.Head = []string{"Disk", "Transport", "Not", "Because"}
	for _, d := range disks {
		if d.Transport == "" {
			continue
		}
		name, by := d.Key, d.Transport
		if len(d.Tried) == 0 {
			t.Rows = append(t.Rows, []string{name, by, "", ""})
		}
		for _, not := range d.Tried {
			why := not.Reason
			if not.Offset >= 0 {
				why = fmt.Sprintf("%s, at %d", why, not.Offset)
			}
			if not.Hint != "" {
				why += " (" + not.Hint + ")"
			}
			t.Rows = append(t.Rows, []string{name, by, not.Transport, why})
			name, by = "", ""
		}
	}
	return t
}

var consistencyWords = map[string]string{
	"unknown": "the disks may have been written to", "crash": "as after a power cut", "filesystem": "file systems were frozen",
	"application": "applications were quiesced", "offline": "nothing was running",
}

func (r *Report) viewRestore(v *view, s *job.RestoreResult) {
	var size_, read, written int64
	rest, holes := "Left as zero", "the rest stayed holes"
	if s.InPlace { // what is left out of a write over a disk is what it holds, and no zeros
		rest, holes = "Left as it was", "the rest was there already, or is not in the point"
	}
	v.Disks.Head = []string{"Disk", "Size", "Read", "Written", rest, "Read back", "Time"}
	for _, d := range s.Disks {
		size_, read, written = size_+d.Size, read+d.Read, written+d.Written
		v.Disks.Rows = append(v.Disks.Rows, []string{
			d.Key, size(d.Size), size(d.Read), size(d.Written), size(d.Size - d.Written), yes(d.Compared), duration(d.Seconds),
		})
	}
	v.Title = "Restore of " + s.VM
	v.Facts = []fact{{"Started", stamp(s.Started), ""}, {"Session", s.Session, ""}, {"Point", s.Point, ""}, {"To", or(s.ID, "nothing was left"), ""}}
	if where := s.Where.String(); where != "" {
		v.Facts = append(v.Facts, fact{"Where", where, ""})
	}
	v.Cards = []fact{
		{"Disks", size(size_), count(len(s.Disks), "disk")}, {"Read", size(read), "each block checked against its id"},
		{"Written", size(written), holes}, {"Time", duration(s.Seconds), rate(size_, s.Seconds) + " of disk"},
	}
	v.Bottleneck, v.Stages = bottleneck(s.Bottleneck, s.Stages, true), stageBars(s.Stages)
	v.Warnings, v.Notes = s.Warnings, s.Notes
	v.Holes.Head = []string{"Disk", "Offset", "Length", "File"}
	for _, h := range s.Holes {
		v.Holes.Rows = append(v.Holes.Rows, []string{h.Disk, fmt.Sprint(h.Offset), fmt.Sprint(h.Length), or(h.File, "not known")})
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (r *Report) viewBoot(v *view, b *job.BootResult) {
	v.Title = "Boot check of " + b.VM
	v.Facts = []fact{{"Started", stamp(b.Started), ""}, {"Session", b.Session, ""}, {"Point", b.Point, ""}}
	passed := 0
	v.Checks.Head = []string{"Check", "Outcome", "After", "What was seen"}
	for _, c := range b.Checks {
		word := "failed"
		if c.Passed {
			word = "passed"
			passed++
		}
		v.Checks.Rows = append(v.Checks.Rows, []string{c.Name, word, duration(c.Seconds), c.Detail})
	}
	v.Cards = []fact{
		{"Checks", fmt.Sprintf("%d of %d", passed, len(b.Checks)), "passed"}, {"Time", duration(b.Seconds), "with its end"},
		{"Written", size(b.Written), "by the guest, and thrown away"},
	}
	v.Bottleneck = "It ran from where the point lies, which was only read."
	v.Warnings, v.Notes, v.Serial = b.Warnings, b.Mapping, b.Serial
	if len(b.Screen) > 0 {
		v.Screen = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Screen)) // what we encoded ourselves
	}
}

// Line reports whether a network was measured, for the page's key.
func (v *view) Line() bool {
	return slices.ContainsFunc(v.Stages, func(b bar) bool { return b.Class == "network" })
}

func yes(b bool) string {
	if b {
		return "same"
	}
	return "no"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func stageBars(stages map[string]float64) (out []bar) {
	for _, s := range stageOrder {
		if busy, ok := stages[s.name]; ok {
			out = append(out, bar{Name: s.name, Value: percent(busy), Class: s.side, Share: min(1, max(0, busy))})
		}
	}
	return out
}

var phaseOrder = []job.Phase{job.PhasePlan, job.PhaseGuest, job.PhaseSnapshot, job.PhaseExclude, job.PhaseCopy, job.PhaseCommit, job.PhaseRelease}

func phaseBars(phases map[string]float64) (out []bar) {
	sum, from := 0.0, 0.0
	for _, s := range phases {
		sum += s
	}
	for _, p := range phaseOrder {
		s, ok := phases[string(p)]
		if !ok || sum <= 0 {
			continue
		}
		out = append(out, bar{Name: string(p), Value: duration(s), Class: string(p), From: from, Share: s / sum})
		from += s / sum
	}
	return out
}

// flowBars are a waterfall: from all of the disks, down by what need not be moved, to what was stored. Each bar begins
// where the one before it ended.
func flowBars(sum job.DiskResult) []bar {
	whole := float64(max(sum.Size, 1))
	out := []bar{{Name: "disks", Value: size(sum.Size), Class: "all", Share: part(sum.Size, sum.Size)}}
	left := sum.Size
	drop := func(name, class string, n int64) {
		if n <= 0 {
			return
		}
		n = min(n, left)
		left -= n
		out = append(out, bar{Name: name, Value: size(n), Class: class, From: float64(left) / whole, Share: float64(n) / whole})
	}
	known := map[string]bool{}
	for _, r := range reasonWords {
		known[r.reason] = true
		drop(r.words, r.reason, sum.Skipped[r.reason])
	}
	for _, reason := range slices.Sorted(maps.Keys(sum.Skipped)) {
		if !known[reason] {
			drop(reason, "other", sum.Skipped[reason])
		}
	}
	drop("deduplicated", "dedup", left-sum.Moved)
	out = append(out, bar{Name: "moved", Value: size(sum.Moved), Class: "moved", Share: min(1, float64(sum.Moved)/whole)})
	return append(out, bar{Name: "stored", Value: size(sum.Stored), Class: "stored", Share: min(1, float64(sum.Stored)/whole)})
}

func diskTable(disks []job.DiskResult) table {
	t := table{Head: []string{"Disk", "Size", "Method", "Read", "Skipped", "Deduplicated", "Moved", "Stored", "Time"}}
	for _, d := range disks {
		var skipped int64
		for _, n := range d.Skipped {
			skipped += n
		}
		t.Rows = append(t.Rows, []string{
			d.Key, size(d.Size), string(d.Method), size(d.Read), size(skipped), size(d.Deduplicated), size(d.Moved), size(d.Stored), duration(d.Seconds),
		})
	}
	return t
}

// volumeTable says of each volume what of it need not be stored, or why all of it is.
func volumeTable(volumes []job.VolumeResult) table {
	t := table{Head: []string{"Volume", "Kind", "Label", "On", "Size", "Free", "Swap", "Excluded", "Stored whole because"}}
	for _, v := range volumes {
		excluded := amount(v.Excluded)
		if v.Files > 0 {
			excluded += " in " + count(int(v.Files), "file")
		}
		t.Rows = append(t.Rows, []string{
			v.Name, or(v.Kind, "not known"), v.Label, disksOf(v.Parts), size(v.Size), amount(v.Free), amount(v.Swap), excluded, v.Whole,
		})
	}
	return t
}

// amount is a size, or a dash for nothing.
func amount(n int64) string {
	if n == 0 {
		return "–"
	}
	return size(n)
}

// disksOf names the disks that a volume lies on, each once.
func disksOf(parts []job.VolumePart) string {
	var keys []string
	for _, p := range parts {
		if p.Disk != "" && !slices.Contains(keys, p.Disk) {
			keys = append(keys, p.Disk)
		}
	}
	return strings.Join(keys, ", ")
}
