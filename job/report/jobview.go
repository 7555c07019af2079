package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hikae/hikae/job"
)

// jobView is a job's report laid out: what the text and the page both show.
type jobView struct {
	Title         string
	Status, Class string
	Error         string
	Facts, Cards  []fact
	Failures      table
	Warnings      []string
	Remarks       []string
	VMs           stated
	LinesTitle    string
	Lines         []bar // when each was at work
	End           string
	Bottleneck    string
	Stages        []bar
	Flow          []bar
	Steps         stated
	Fallbacks     table
	Hooks         table
	Notes         []string
	Sessions      []folded
	Left          int // sessions that the page has no room for
}

// stated is a table whose second column is a state.
type stated struct {
	table
	Classes []string // of the states, for their colours
	Refs    []string // where more is said of a row, in the page; empty: nowhere
}

// folded is a session's own page within a job's.
type folded struct {
	Ref, Name, State, Class string
	*view
	Charts []*chart
}

const (
	maxLines  = 40  // of a timeline
	maxFolded = 200 // sessions in one page, so that a browser shows it at once
)

var stateClasses = map[string]string{"done": "good", "warned": "warn", "failed": "bad", "cancelled": "bad"}

var jobStatus = map[string]string{"done": "Done", "warned": "Done, with warnings", "failed": "Failed", "cancelled": "Cancelled"}

func (j *Job) view() *jobView {
	v := &jobView{Title: "Job " + j.Name, Status: or(jobStatus[j.State], j.State), Class: or(stateClasses[j.State], "warn"), Error: j.Error,
		Warnings: slices.Clone(j.Warnings), Notes: j.Notes}
	v.Facts = []fact{{"Started", stamp(j.Started), ""}, {"Run", j.Run, ""}}
	backups := j.backups()
	var disks []job.DiskResult
	var parity int64
	for _, b := range backups {
		disks = append(disks, b.Disks...)
		parity += b.Parity
	}
	sum := sumOf(disks)
	v.Cards = j.cards(sum, parity)
	v.failures(j)
	v.vms(j)
	v.lines(j)
	if len(backups) > 0 {
		v.Flow = flowBars(sum)
		v.Bottleneck, v.Stages = pace(backups)
	} else {
		v.Bottleneck = "No VM came as far as to be copied."
	}
	v.steps(j)
	v.Fallbacks.Head = []string{"VM", "Disk", "From", "To", "Why"}
	for _, b := range backups {
		for _, f := range b.Fallbacks {
			v.Fallbacks.Rows = append(v.Fallbacks.Rows, []string{b.VM, f.Disk, string(f.From), string(f.To), f.Reason})
		}
	}
	v.Hooks.Head = []string{"When", "VM", "What", "Result", "Time"}
	for _, h := range j.Hooks {
		result := h.Result
		if h.Output != "" {
			result += ": " + h.Output
		}
		v.Hooks.Rows = append(v.Hooks.Rows, []string{h.When, h.VM, h.What, result, duration(h.Seconds)})
	}
	return v
}

// backups are the sessions of the VMs that made backups.
func (j *Job) backups() (out []*job.Result) {
	for _, vm := range j.VMs {
		if vm.Session != nil && vm.Session.Backup != nil {
			out = append(out, vm.Session.Backup)
		}
	}
	return out
}

func (j *Job) cards(sum job.DiskResult, parity int64) []fact {
	worked := 0.0
	for _, vm := range j.VMs {
		if !vm.Begun.IsZero() {
			worked += vm.Seconds
		}
	}
	once := "–"
	if j.Seconds > 0 {
		once = fmt.Sprintf("%.1f VMs", worked/j.Seconds)
	}
	return []fact{
		{"New points", fmt.Sprintf("%d of %d", j.Good(), len(j.VMs)), "VMs"},
		{"Disks", size(sum.Size), "of the VMs that were read"},
		{"Read", size(sum.Read), percent(part(sum.Read, sum.Size)) + " of the disks"},
		{"Moved", size(sum.Moved), "new data, before compression"},
		{"Stored", size(sum.Stored), "and " + size(max(parity, sum.Parity)) + " of parity"},
		{"Deduplication", ratio(sum.Moved+sum.Deduplicated, sum.Moved), size(sum.Deduplicated) + " was there already"},
		{"Time", duration(j.Seconds), rate(sum.Size, j.Seconds) + " of disk"},
		{"At once", once, "on the average of the run"},
	}
}

func (v *jobView) failures(j *Job) {
	v.Failures.Head = []string{"VM", "Why", "What to do", "Tries"}
	for _, vm := range j.VMs {
		if vm.Error != "" {
			v.Failures.Rows = append(v.Failures.Rows, []string{vm.VM, vm.Error, vm.Hint, fmt.Sprint(vm.Attempts)})
		}
		for _, w := range vm.Warnings {
			v.Warnings = append(v.Warnings, vm.VM+": "+w)
		}
		if vm.Session == nil {
			continue
		}
		for _, w := range vm.Session.warnings() {
			v.Warnings = append(v.Warnings, vm.VM+": "+w)
		}
		for _, m := range vm.Session.Remarks {
			v.Remarks = append(v.Remarks, vm.VM+": "+m.Text)
		}
	}
}

// vms is the table of the VMs, and the sessions that are folded into the page: those that somebody has to look at first.
func (v *jobView) vms(j *Job) {
	room := maxFolded
	fold := map[int]bool{}
	for _, wanted := range []bool{true, false} {
		for i, vm := range j.VMs {
			if vm.Session != nil && (vm.State != "done") == wanted && room > 0 {
				fold[i] = true
				room--
			}
		}
	}
	v.VMs.Head = []string{"VM", "State", "Point", "Consistency", "Tries", "Read", "Moved", "Stored", "Waited", "Time"}
	for i, vm := range j.VMs {
		consistency, read, moved, stored := "", "", "", ""
		if vm.Session != nil && vm.Session.Backup != nil {
			sum := sumOf(vm.Session.Backup.Disks)
			consistency, read, moved, stored = vm.Session.Backup.Consistency, size(sum.Read), size(sum.Moved), size(sum.Stored)
		}
		state, ref := vm.State, ""
		if vm.Earlier {
			state += " before"
		}
		switch {
		case fold[i]:
			ref = fmt.Sprintf("vm-%d", i)
			inner := vm.Session.view()
			v.Sessions = append(v.Sessions, folded{ref, vm.VM, state, stateClasses[vm.State], inner, charts(inner.Trend)})
		case vm.Session != nil:
			v.Left++
		}
		v.VMs.add(stateClasses[vm.State], ref, vm.VM, state, vm.Point[:min(12, len(vm.Point))], consistency, fmt.Sprint(vm.Attempts), read, moved, stored,
			duration(vm.Waited), duration(vm.Seconds))
	}
}

func (s *stated) add(class, ref string, row ...string) {
	s.Rows, s.Classes, s.Refs = append(s.Rows, row), append(s.Classes, or(class, "warn")), append(s.Refs, ref)
}

func (v *jobView) steps(j *Job) {
	v.Steps.Head = []string{"What", "State", "Where", "Result", "Time"}
	for _, s := range j.Steps {
		v.Steps.add(stateClasses[s.State], "", s.What, s.State, s.Where, s.Text, duration(s.Seconds))
	}
}

// lines draw when the VMs were at work, the longest first, and what came after them.
func (v *jobView) lines(j *Job) {
	whole := j.Seconds
	end := func(begun time.Time, seconds float64) float64 { return begun.Sub(j.Started).Seconds() + seconds }
	var vms []JobVM
	for _, vm := range j.VMs {
		if !vm.Begun.IsZero() {
			vms = append(vms, vm)
			whole = math.Max(whole, end(vm.Begun, vm.Seconds))
		}
	}
	for _, s := range j.Steps {
		if !s.Begun.IsZero() {
			whole = math.Max(whole, end(s.Begun, s.Seconds))
		}
	}
	if whole <= 0 {
		return
	}
	slices.SortStableFunc(vms, func(a, b JobVM) int { return cmp.Compare(b.Seconds, a.Seconds) })
	v.LinesTitle, v.End = "When each VM was at work", duration(whole)
	if len(vms) > maxLines {
		v.LinesTitle = fmt.Sprintf("When the %d VMs that took longest were at work", maxLines)
		vms = vms[:maxLines]
	}
	line := func(name, class string, begun time.Time, seconds float64) {
		from := math.Min(1, math.Max(0, end(begun, 0)/whole))
		v.Lines = append(v.Lines, bar{Name: shortened(name), Value: duration(seconds), Class: class, From: from, Share: math.Min(1-from, seconds/whole)})
	}
	for _, vm := range vms {
		line(vm.VM, "at-"+or(stateClasses[vm.State], "warn"), vm.Begun, vm.Seconds)
	}
	for _, s := range j.Steps {
		if !s.Begun.IsZero() && len(v.Lines) < 2*maxLines {
			class := "at-step"
			if stateClasses[s.State] == "bad" {
				class = "at-bad"
			}
			line(s.What, class, s.Begun, s.Seconds)
		}
	}
}

// shortened is a name that fits beside a line.
func shortened(name string) string {
	const most = 26
	if r := []rune(name); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return name
}

// pace is what most of the copying waited for, by time, and how busy each stage was on the average.
func pace(backups []*job.Result) (words string, stages []bar) {
	average, sides, spent := map[string]float64{}, map[string]int{}, map[string]float64{}
	all, some := 0.0, 0
	for _, b := range backups {
		took := b.Phases[string(job.PhaseCopy)]
		if b.Bottleneck == "" || took <= 0 {
			continue
		}
		all, some = all+took, some+1
		sides[b.Bottleneck]++
		spent[b.Bottleneck] += took
		for stage, busy := range b.Stages {
			average[stage] += busy * took
		}
	}
	if all <= 0 {
		return bottleneck("", nil, false), nil
	}
	for stage := range average {
		average[stage] /= all
	}
	most := ""
	for _, side := range []string{"source", "pipe", "network", "target"} {
		if spent[side] > spent[most] {
			most = side
		}
	}
	words = bottleneck(most, average, false)
	if some > 1 {
		words += fmt.Sprintf(" So it was for %d of %d VMs, which had %s of the copying time.", sides[most], some, percent(spent[most]/all))
	}
	return words, stageBars(average)
}
