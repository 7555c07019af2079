package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/jobfile"
)

// planDoc is what a job would do.
type planDoc struct {
	Job        string      `json:"job"`
	Repository string      `json:"repository"`
	VMs        []plannedVM `json:"vms"`
	Tasks      int         `json:"tasks"`  // VMs at once
	Shared     bool        `json:"shared"` // the other limits count with other jobs
	Next       []time.Time `json:"next"`   // runs by the schedule
	Zone       string      `json:"zone"`
	Window     string      `json:"window"`
	Open       bool        `json:"open"`              // the window, now
	Changes    *time.Time  `json:"changes,omitempty"` // when it closes or opens next
	Forget     *forgetDoc  `json:"forget,omitempty"`  // what the retention would let go if it were applied now
	Keep       string      `json:"keep,omitempty"`
	Copies     []string    `json:"copies"`
	Replicas   []string    `json:"replicas"` // VMs, and the folder where they are kept ready
	Hooks      []string    `json:"hooks"`
	BootCheck  []string    `json:"bootCheck"` // VMs whose new points are started
	Verify     string      `json:"verify,omitempty"`
	Warnings   []string    `json:"warnings"`

	limited bool // there are limits besides
}

// plannedVM is one VM of a plan.
type plannedVM struct {
	VM    string           `json:"vm"`
	Host  string           `json:"host"`
	Needs []string         `json:"needs"`          // resources that limits are for
	Base  string           `json:"base,omitempty"` // the point that the next one is built on
	Disks []plannedDisk    `json:"disks"`
	Guest []string         `json:"guest"` // ways into it
	Error *outcome.Problem `json:"error,omitempty"`
}

// plannedDisk is one disk of a VM.
type plannedDisk struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	How  string `json:"how"` // changed, all, skipped
	Why  string `json:"why,omitempty"`
}

func (t *tool) jobPlan(ctx context.Context, f *jobFlags, file *jobfile.File) (_ *reply, err error) {
	j, err := t.openJob(ctx, f, file, true)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	now := time.Now()
	doc := &planDoc{Job: file.Name, Repository: outcome.Redact(file.Repository.URL), VMs: []plannedVM{}, Tasks: file.Limits.Tasks,
		Next: []time.Time{}, Zone: file.Schedule.Zone, Window: file.Opening().String(), Copies: []string{}, Replicas: []string{}, Hooks: []string{}, BootCheck: []string{}}
	doc.Shared, doc.limited = file.Limits.Shared, file.Limits.Besides()
	if doc.Tasks == 0 {
		doc.Tasks = defaultTasks
	}
	failed := 0
	for _, vm := range j.vms {
		one := j.planVM(ctx, vm)
		if one.Error != nil {
			failed++
		}
		doc.VMs = append(doc.VMs, one)
	}
	doc.Warnings = append([]string{}, j.unfit()...)
	doc.when(file, now)
	if err := doc.later(ctx, j); err != nil {
		return nil, err
	}
	left := &reply{doc: doc, loud: true, text: doc.print, warnings: doc.Warnings}
	if failed > 0 {
		return left, fmt.Errorf("%d of %d VMs could not be backed up now", failed, len(j.vms))
	}
	return left, nil
}

func (j *openJob) planVM(ctx context.Context, vm *jobVM) plannedVM {
	out := plannedVM{VM: vm.name, Host: vm.host(), Needs: []string{}, Disks: []plannedDisk{}, Guest: []string{}}
	if g := j.guestOf(vm.name); g != nil {
		out.Guest = jobGuest(g, vm.name).urls
	}
	if vm.err != nil {
		out.Error = errorOf(vm.name, vm.err)
		return out
	}
	out.Needs = j.needs(vm)
	planned, err := j.planned(ctx, vm)
	if err != nil {
		out.Error = errorOf(vm.name, err)
		return out
	}
	out.Base = planned.Base
	for _, d := range planned.Disks {
		how := map[job.Method]string{job.Changed: "changed", job.Allocated: "all", "": "skipped"}[d.Method]
		out.Disks = append(out.Disks, plannedDisk{Key: d.Key, Size: d.Size, How: how, Why: d.Why})
	}
	return out
}

// planned is what the engine would do with a VM. An error stops it.
func (j *openJob) planned(ctx context.Context, vm *jobVM) (*engine.Planned, error) {
	opts, err := j.backupOptions(vm)
	if err != nil {
		return nil, err
	}
	plan, err := engine.PlanBackups(ctx, vm.provider, nil, j.repo, &engine.PlanOptions{Backups: &engine.BackupsOptions{
		Each: func(hikae.VM) *job.BackupOptions { return opts }, Needs: func(hikae.VM) []string { return j.needs(vm) }}})
	if err != nil {
		return nil, err
	}
	if len(plan.Tasks) != 1 {
		return nil, fmt.Errorf("its source lists %d VMs in its place", len(plan.Tasks))
	}
	for _, problem := range plan.Tasks[0].Problems {
		if problem.Stops {
			return nil, problem.Err
		}
	}
	return &plan.Tasks[0], nil
}

// shownRuns are the next runs of a plan.
const shownRuns = 3

func (d *planDoc) when(file *jobfile.File, now time.Time) {
	at := now
	for range shownRuns {
		next, ok := file.Runs().Next(at)
		if !ok {
			break
		}
		d.Next, at = append(d.Next, next), next
	}
	open, changes := file.Opening().At(now)
	d.Open = open
	if !changes.IsZero() {
		d.Changes = &changes
	}
}

// later is what comes after the VMs.
func (d *planDoc) later(ctx context.Context, j *openJob) error {
	if r := j.file.Retention; r != nil {
		d.Keep = r.Keep.String()
		step, err := j.retain(ctx, j.repo, r, true)
		if err != nil {
			return err
		}
		forget := step.Result.(forgetDoc)
		d.Forget = &forget
	}
	for _, c := range j.file.Copies {
		d.Copies = append(d.Copies, outcome.Redact(c.Repository.URL))
	}
	for i := range j.file.Replicas {
		d.Replicas = append(d.Replicas, j.replicated(&j.file.Replicas[i]))
	}
	for _, h := range j.file.Hooks {
		what := addressOf(h.URL)
		if h.URL == "" {
			what = h.Run[0]
		}
		d.Hooks = append(d.Hooks, h.When+": "+what)
	}
	if b := j.file.BootCheck; b != nil {
		for _, name := range j.names() {
			if jobfile.Fits(b.VMs, name) {
				d.BootCheck = append(d.BootCheck, name)
			}
		}
	}
	if v := j.file.Verify; v != nil {
		d.Verify = "the structure"
		switch {
		case v.Data != "":
			d.Verify = string(v.Data) + " of the data"
		case v.Days > 0:
			d.Verify = fmt.Sprintf("all data within %d days", v.Days)
		}
	}
	return nil
}

func (d *planDoc) print(w *show.Printer) error {
	if err := w.Printf("%s: %s into %s, %d at once\n\n", w.Bold(d.Job), show.Count(len(d.VMs), "VM"), d.Repository, d.Tasks); err != nil {
		return err
	}
	table := show.NewTable("VM", "DISK", ">SIZE", "READ", "BASE", "GUEST BY")
	for _, vm := range d.VMs {
		name, base, ways := outcome.Clean(vm.VM), short(vm.Base), strings.Join(vm.Guest, ", ")
		if vm.Error != nil {
			table.Row(name, "", "", "fails: "+outcome.Clean(vm.Error.Message))
			continue
		}
		for _, disk := range vm.Disks {
			how := map[string]string{"changed": "what differs from the base", "all": "all data", "skipped": "skipped"}[disk.How]
			if disk.Why != "" {
				how += ": " + outcome.Clean(disk.Why)
			}
			table.Row(name, disk.Key, show.Size(disk.Size), how, base, ways)
			name, base, ways = "", "", ""
		}
	}
	if err := table.Print(w); err != nil {
		return err
	}
	return w.Facts(d.facts()...)
}

// facts are the rest of a plan, in pairs.
func (d *planDoc) facts() (out []string) {
	add := func(name, text string) { out = append(out, name, text) }
	var next []string
	for _, at := range d.Next {
		next = append(next, at.Format("Mon 2006-01-02 15:04 MST"))
	}
	if len(next) == 0 {
		next = []string{"only when it is called: the file has no schedule"}
	}
	add("runs", strings.Join(next, ", "))
	window := d.Window
	if d.Changes != nil {
		word := "closed now, opens "
		if d.Open {
			word = "open now, closes "
		}
		window += " (" + word + d.Changes.Format("Mon 15:04") + ")"
	}
	add("window", window)
	switch {
	case d.limited && d.Shared:
		add("limits", "together with the jobs of this machine that share theirs")
	case d.limited:
		add("limits", "of this run: other jobs that run at the same time do not count (limits: {shared: true})")
	}
	if d.Forget != nil {
		add("keeps", fmt.Sprintf("%s (%d of %d points would go now)", d.Keep, len(d.Forget.Removed), len(d.Forget.Removed)+len(d.Forget.Kept)))
	} else {
		add("keeps", "all points")
	}
	if len(d.Copies) > 0 {
		add("copies to", strings.Join(d.Copies, ", "))
	}
	if len(d.Replicas) > 0 {
		add("replicas", strings.Join(d.Replicas, "; "))
	}
	if len(d.BootCheck) > 0 {
		add("starts", strings.Join(d.BootCheck, ", "))
	}
	if d.Verify != "" {
		add("verifies", d.Verify)
	}
	if len(d.Hooks) > 0 {
		add("calls", strings.Join(d.Hooks, ", "))
	}
	return out
}
