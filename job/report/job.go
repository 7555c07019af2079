package report

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
)

// Job is the report of a job's run: many VMs, and what came after them. The names of its JSON fields are a contract with scripts.
type Job struct {
	Name     string    `json:"job"`
	Run      string    `json:"run"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	State    string    `json:"state"` // done, warned, failed, cancelled
	Error    string    `json:"error,omitempty"`
	VMs      []JobVM   `json:"vms"`
	Steps    []JobStep `json:"steps"`
	Hooks    []JobHook `json:"hooks,omitempty"`
	Warnings []string  `json:"warnings,omitempty"` // of the run itself; those of VMs stand in their sessions
	Notes    []string  `json:"notes,omitempty"`
}

// JobVM is what became of one VM.
type JobVM struct {
	VM       string    `json:"vm"`
	State    string    `json:"state"` // as of the job
	Begun    time.Time `json:"begun,omitzero"`
	Waited   float64   `json:"waited"`  // seconds before it was begun
	Seconds  float64   `json:"seconds"` // all tries, and the waits between them
	Attempts int       `json:"attempts"`
	Earlier  bool      `json:"earlier,omitempty"` // it was done before the run was begun again
	Point    string    `json:"point,omitempty"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`     // what a person can do about it
	Warnings []string  `json:"warnings,omitempty"` // beside those of its session
	Session  *Report   `json:"session,omitempty"`  // of the last try
}

// JobStep is something that was done after the VMs, such as a copy to another repository.
type JobStep struct {
	What    string    `json:"what"`
	Where   string    `json:"where,omitempty"`
	State   string    `json:"state"`
	Begun   time.Time `json:"begun,omitzero"`
	Seconds float64   `json:"seconds"`
	Text    string    `json:"text,omitempty"` // what came of it
}

// JobHook is a program that was run, or an address that was called.
type JobHook struct {
	When    string  `json:"when"`
	VM      string  `json:"vm,omitempty"`
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"` // "well", or what went wrong
	Output  string  `json:"output,omitempty"`
}

// NewJob makes a report of a run. earlier are records as [New] takes them, of any VMs.
func NewJob(res *engine.Result, earlier []job.Record) *Job {
	j := &Job{Name: res.Job, Run: res.Run, Started: res.Started, Seconds: res.Seconds, State: string(res.State), VMs: []JobVM{}, Steps: []JobStep{}}
	of := Earlier(earlier)
	for _, t := range res.Tasks {
		vm := JobVM{VM: t.VM, State: string(t.State), Waited: t.Waited, Seconds: t.Seconds, Attempts: t.Attempts, Earlier: t.Earlier, Point: t.Point, Error: t.Error}
		if t.Attempts > 0 && !t.Earlier {
			vm.Begun = res.Started.Add(time.Duration(t.Waited * float64(time.Second)))
		}
		if t.Record != nil {
			vm.Session = New(*t.Record, of[t.Record.VM()])
		}
		for _, w := range t.Warnings {
			if vm.Session == nil || !slices.Contains(vm.Session.warnings(), w) {
				vm.Warnings = append(vm.Warnings, w)
			}
		}
		j.VMs = append(j.VMs, vm)
	}
	return j
}

// Earlier sorts records by their VMs, each list in the order of the whole.
func Earlier(list []job.Record) map[string][]job.Record {
	of := map[string][]job.Record{}
	for _, r := range list {
		of[r.VM()] = append(of[r.VM()], r)
	}
	return of
}

// Good is how many VMs have a point of this run.
func (j *Job) Good() (n int) {
	for _, vm := range j.VMs {
		if vm.Error == "" && vm.State != string(engine.Failed) && vm.State != string(engine.Cancelled) {
			n++
		}
	}
	return n
}

// JSON writes the report as one document.
func (j *Job) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(j)
}

// Text writes the report for a terminal, plain and without colours. Control characters in names are shown, not sent.
func (j *Job) Text(w io.Writer) error {
	p := &printer{}
	v := j.view()
	p.line("%s: %s", v.Title, strings.ToLower(v.Status))
	if v.Error != "" {
		p.line("  %s", v.Error)
	}
	p.line("")
	for _, f := range append(v.Facts, v.Cards...) {
		p.line("  %-14s %-12s %s", f.Name, f.Value, f.More)
	}
	p.table("What failed", v.Failures)
	p.list("Warnings", v.Warnings)
	p.list("Worth a look", v.Remarks)
	p.table("VMs", v.VMs.table)
	p.bars(v.LinesTitle, v.Lines)
	p.line("")
	p.line("%s", v.Bottleneck)
	p.bars("Busy share of the copying time", v.Stages)
	p.bars("From the disks to the repository", v.Flow)
	p.table("After the VMs", v.Steps.table)
	p.table("Fallbacks: the points are the same; something else had to do", v.Fallbacks)
	p.table("Hooks", v.Hooks)
	p.list("Notes", v.Notes)
	_, err := io.WriteString(w, p.b.String())
	return err
}
