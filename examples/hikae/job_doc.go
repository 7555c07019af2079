package main

import (
	"fmt"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/hooks"
)

// jobDoc is what a run prints for scripts.
type jobDoc struct {
	Job      string         `json:"job"`
	Run      string         `json:"run"`
	Started  time.Time      `json:"started"`
	Seconds  float64        `json:"seconds"`
	State    string         `json:"state"` // done, warned, failed, cancelled
	Error    string         `json:"error,omitempty"`
	VMs      []vmDone       `json:"vms"`
	Steps    []jobStep      `json:"steps"` // what came after the VMs
	Hooks    []hooks.Record `json:"hooks"`
	Warnings []string       `json:"warnings"`
	Notes    []string       `json:"notes"`
}

// vmDone is what became of one VM.
type vmDone struct {
	VM       string           `json:"vm"`
	State    string           `json:"state"`
	Begun    time.Time        `json:"begun,omitzero"`
	Attempts int              `json:"attempts"`
	Waited   float64          `json:"waited"` // seconds
	Seconds  float64          `json:"seconds"`
	Point    string           `json:"point,omitempty"`
	Error    *outcome.Problem `json:"error,omitempty"`
	Result   *job.Result      `json:"result,omitempty"` // of the last attempt, as hikae backup has it

	earlier bool // it was done before the run was begun again
}

// jobStep is one thing that was done after the VMs.
type jobStep struct {
	What    string    `json:"what"` // copy, replicate, forget, prune, boot-check, verify
	Where   string    `json:"where"`
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Text    string    `json:"text"` // for people
	Error   string    `json:"error,omitempty"`
	Result  any       `json:"result,omitempty"` // as the command of that name has it

	status outcome.Status
}

func (d *jobDoc) warn(format string, args ...any) {
	d.Warnings = append(d.Warnings, fmt.Sprintf(format, args...))
}

// failed is how many VMs have no point of this run.
func (d *jobDoc) failed() (n int) {
	for _, vm := range d.VMs {
		if vm.Error != nil {
			n++
		}
	}
	return n
}

// reply is the document with what people are told, and the exit status: the worst of all parts.
func (d *jobDoc) reply(err error) (*reply, error) {
	left := &reply{doc: d, warnings: d.Warnings, notes: d.Notes, text: d.print}
	if d.State == "warned" {
		left.status = outcome.Warned
	}
	for _, vm := range d.VMs {
		if vm.Error != nil {
			left.warnings = append(left.warnings, vm.Error.Text(vm.VM+":"))
		} else if vm.Result != nil {
			left.warnings = append(left.warnings, prefixed(vm.VM, vm.Result.Warnings)...)
		}
	}
	for _, step := range d.Steps {
		left.status = max(left.status, step.status)
	}
	if err != nil && left.status == outcome.Damaged && d.failed() == 0 { // the damage is what counts
		return left, nil
	}
	return left, err
}

func prefixed(word string, list []string) (out []string) {
	for _, text := range list {
		out = append(out, word+": "+text)
	}
	return out
}

func (d *jobDoc) print(w *show.Printer) error {
	if err := w.Printf("%s  run %s  %s  %s\n\n", w.Bold(d.Job), d.Run, d.colour(w), show.Seconds(d.Seconds)); err != nil {
		return err
	}
	table := show.NewTable("VM", "STATE", "POINT", ">TRIES", ">READ", ">STORED", ">TIME")
	for _, vm := range d.VMs {
		read, stored := "", ""
		if vm.Result != nil {
			read, stored = readOf(vm.Result), show.Size(vm.Result.Stored)
		}
		table.Row(outcome.Clean(vm.VM), vm.State, short(vm.Point), fmt.Sprint(vm.Attempts), read, stored, show.Seconds(vm.Seconds))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	for _, s := range d.Steps {
		if err := w.Printf("%s %s: %s\n", s.What, outcome.Clean(s.Where), outcome.Clean(s.Text)); err != nil {
			return err
		}
	}
	return w.Printf("\n%d of %d VMs have a new point\n", len(d.VMs)-d.failed(), len(d.VMs))
}

func (d *jobDoc) colour(w *show.Printer) string {
	switch d.State {
	case "done":
		return w.Green(d.State)
	case "warned":
		return w.Yellow(d.State)
	}
	return w.Red(d.State)
}

// errorText is the message of a VM's error; empty where it has none.
func (v *vmDone) errorText() string {
	if v.Error == nil {
		return ""
	}
	return v.Error.Message
}
