package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// Plan is what a run of [Backups] would do now. The names of its JSON fields are a contract with scripts.
type Plan struct {
	Tasks []Planned `json:"tasks"` // in the order in which they stand in line
}

// Planned is one task of a plan.
type Planned struct {
	ID       string            `json:"id"`
	VM       string            `json:"vm"`
	Needs    []string          `json:"needs"`
	Claim    string            `json:"claim,omitempty"`
	Group    int               `json:"group,omitempty"`   // VMs with one number share a snapshot; zero: it is pinned by itself
	Base     string            `json:"base,omitempty"`    // the point that the next one is built on
	Facts    map[string]string `json:"facts,omitempty"`   // what its provider tells of it: host, transport, …
	Disks    []PlannedDisk     `json:"disks"`             // as the provider lists them
	Problems []Problem         `json:"problems"`          // what stops it, or makes less of it
	Stopped  bool              `json:"stopped,omitempty"` // one of them stops it
}

// PlannedDisk is one disk of a planned backup.
type PlannedDisk struct {
	Key    string     `json:"key"`
	Size   int64      `json:"size"`             // bytes
	Method job.Method `json:"method,omitempty"` // how it is expected to be read; empty: not at all
	Why    string     `json:"why,omitempty"`    // not changed alone
}

// Problem is something about a VM that a person should know before it is backed up.
type Problem struct {
	What  string `json:"what"`
	Means string `json:"means,omitempty"` // for the backup, and what can be done
	Stops bool   `json:"stops"`           // there would be no point
	Err   error  `json:"-"`               // what it was found by, where that is an error
}

// PlanOptions change how a plan is made. Nil and zero fields are good defaults.
type PlanOptions struct {
	Backups *BackupsOptions // as the run has them
	// Check looks for what would stop a VM's backup or make less of it, such as a provider's preflight. An error is a problem that stops. Nil:
	// nobody looks.
	Check func(ctx context.Context, vm hikae.VM) ([]Problem, error)
}

// PlanBackups finds out what [Backups] with the same VMs and options would do. It changes nothing anywhere. A VM that cannot be planned is
// in the plan with its problem; errors are of the listing, and a [*NoVMError].
func PlanBackups(ctx context.Context, provider hikae.SnapshotProvider, ids []string, backend pipe.Backend, opts *PlanOptions) (*Plan, error) {
	o := PlanOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Backups == nil {
		o.Backups = &BackupsOptions{}
	}
	vms, grouped, err := o.Backups.lineUp(ctx, provider, ids)
	if err != nil {
		return nil, err
	}
	number := map[string]int{}
	for n, group := range grouped.Groups() {
		for _, id := range group {
			number[id] = n + 1
		}
	}
	plan := &Plan{Tasks: []Planned{}}
	for _, vm := range vms {
		one, err := o.plan(ctx, vm, provider, backend)
		if err != nil {
			return nil, err
		}
		one.Group = number[vm.ID]
		plan.Tasks = append(plan.Tasks, one)
	}
	return plan, nil
}

func (o *PlanOptions) plan(ctx context.Context, vm hikae.VM, provider hikae.SnapshotProvider, backend pipe.Backend) (Planned, error) {
	t := o.Backups.task(vm, provider, backend)
	p := Planned{ID: t.ID, VM: t.VM, Needs: append([]string{}, t.Needs...), Claim: t.Claim, Facts: vm.Facts, Disks: []PlannedDisk{}, Problems: []Problem{}}
	made, err := job.PlanBackup(ctx, provider, vm.ID, backend, o.Backups.each(vm))
	if ctx.Err() != nil {
		return Planned{}, context.Cause(ctx)
	}
	if err != nil {
		p.Problems = append(p.Problems, Problem{What: err.Error(), Stops: true, Err: err})
	}
	if made != nil {
		p.onto(made)
	}
	if o.Check != nil {
		found, err := o.Check(ctx, vm)
		if ctx.Err() != nil {
			return Planned{}, context.Cause(ctx)
		}
		if err != nil {
			found = append(found, Problem{What: err.Error(), Means: "whether it can be backed up is not known", Stops: true, Err: err})
		}
		p.Problems = append(p.Problems, found...)
	}
	for _, problem := range p.Problems {
		p.Stopped = p.Stopped || problem.Stops
	}
	return p, nil
}

// onto tells what is read of each disk.
func (p *Planned) onto(made *job.Plan) {
	sizes := map[string]int64{}
	if made.Base != nil {
		p.Base = made.Base.ID
		for _, d := range made.Base.Disks {
			sizes[d.Key] = d.Size
		}
	}
	for _, d := range made.VM.Disks {
		one := PlannedDisk{Key: d.Key, Size: d.Size, Method: job.Allocated}
		size, based := sizes[d.Key]
		switch {
		case d.Skip != "":
			one.Method, one.Why = "", d.Skip
		case made.Base == nil:
			one.Why = "there is no point to build on"
		case !based:
			one.Why = "the disk is new"
		case size != d.Size:
			one.Why = fmt.Sprintf("the disk was resized from %d to %d bytes", size, d.Size)
		default:
			one.Method = job.Changed
		}
		p.Disks = append(p.Disks, one)
	}
}

// Stopped is how many VMs would have no point.
func (p *Plan) Stopped() (n int) {
	for _, t := range p.Tasks {
		if t.Stopped {
			n++
		}
	}
	return n
}

// String tells the plan to a person: a line for each VM, and below it one for each disk and problem.
func (p *Plan) String() string {
	var b strings.Builder
	for _, t := range p.Tasks {
		fmt.Fprintf(&b, "%s: %s", t.VM, baseWord(t.Base))
		if len(t.Needs) > 0 {
			fmt.Fprintf(&b, ", needs %s", strings.Join(t.Needs, " and "))
		}
		if t.Group > 0 {
			fmt.Fprintf(&b, ", shares snapshot %d", t.Group)
		}
		b.WriteString("\n")
		for _, d := range t.Disks {
			fmt.Fprintf(&b, "  %s: %d bytes, %s\n", d.Key, d.Size, d.words())
		}
		for _, problem := range t.Problems {
			b.WriteString("  " + problem.String() + "\n")
		}
	}
	return b.String()
}

func baseWord(base string) string {
	if base == "" {
		return "no base"
	}
	return "base " + base
}

func (d PlannedDisk) words() string {
	what := map[job.Method]string{"": "skipped", job.Changed: "what changed", job.Allocated: "all data"}[d.Method]
	if d.Why != "" {
		what += ": " + d.Why
	}
	return what
}

// String tells the problem in a line.
func (p Problem) String() string {
	out := "problem: "
	if p.Stops {
		out = "stopped: "
	}
	out += p.What
	if p.Means != "" {
		out += " (" + p.Means + ")"
	}
	return out
}
