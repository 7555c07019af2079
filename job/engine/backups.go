package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// BackupsOptions change how tasks are made of VMs. Nil and zero fields are good defaults.
type BackupsOptions struct {
	// Each is how one VM is backed up; nil, or a nil answer: as job.Backup does by default. Facts and Events are the task's own.
	Each func(vm hikae.VM) *job.BackupOptions
	// Needs are the resources that a VM's backup takes; nil: those of [Needs].
	Needs func(vm hikae.VM) []string
	// Repository is what the backend is called among resources, as "repository/" and this; empty: it is none.
	Repository string
	// Claim names what nobody else may work on meanwhile; nil: "vm/" and its id.
	Claim func(vm hikae.VM) string
	// BufferBytes is the memory of each VM's copy, where Each does not say. Zero: 16 MiB, so that sixteen at once take a quarter of a GiB.
	BufferBytes int64
	// Group has VMs that can share a snapshot share it: see job.Grouped.
	Group *job.GroupOptions
}

const bufferBytes = 16 << 20

// Backups makes a task of each of the provider's VMs with these ids; none: of all that it lists. VMs that share a snapshot are pinned together, and
// stand together in line, at the place of the first: what they share is held until the last is done.
// What was made by an attempt that did not live to say so is found by its fact, and not made twice.
//
// close is to be called when the run is over: it releases what nobody asked for.
func Backups(ctx context.Context, provider hikae.SnapshotProvider, ids []string, backend pipe.Backend, opts *BackupsOptions) (tasks []Task, close func(context.Context) error, err error) {
	o := BackupsOptions{}
	if opts != nil {
		o = *opts
	}
	vms, grouped, err := o.lineUp(ctx, provider, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, vm := range vms {
		tasks = append(tasks, o.task(vm, grouped, backend))
	}
	return tasks, grouped.Close, nil
}

// lineUp lists the VMs, and brings those of a group together.
func (o *BackupsOptions) lineUp(ctx context.Context, provider hikae.SnapshotProvider, ids []string) ([]hikae.VM, *job.Grouped, error) {
	vms, err := listed(ctx, provider, ids)
	if err != nil {
		return nil, nil, err
	}
	place, known := map[string]int{}, make([]string, len(vms))
	for i, vm := range vms {
		place[vm.ID], known[i] = i, vm.ID
	}
	grouped, err := job.NewGrouped(ctx, provider, known, o.Group)
	if err != nil {
		return nil, nil, err
	}
	for _, group := range grouped.Groups() {
		first := len(vms)
		for _, id := range group {
			first = min(first, place[id])
		}
		for _, id := range group {
			place[id] = first
		}
	}
	slices.SortStableFunc(vms, func(a, b hikae.VM) int { return cmp.Compare(place[a.ID], place[b.ID]) })
	return vms, grouped, nil
}

// listed are the VMs that are meant, in the order in which they are asked for.
func listed(ctx context.Context, provider hikae.SnapshotProvider, ids []string) ([]hikae.VM, error) {
	var all []hikae.VM
	for vm, err := range provider.VMs(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list VMs: %w", err)
		}
		if all = append(all, vm); len(all) > maxTasks {
			return nil, fmt.Errorf("list VMs: more than %d", maxTasks)
		}
	}
	if len(ids) == 0 {
		return all, nil
	}
	var out []hikae.VM
	for _, id := range ids {
		i := slices.IndexFunc(all, func(vm hikae.VM) bool { return vm.ID == id })
		if i < 0 {
			return nil, &NoVMError{ID: id}
		}
		out = append(out, all[i])
	}
	return out, nil
}

// NoVMError says that a provider does not list a VM.
type NoVMError struct{ ID string }

func (e *NoVMError) Error() string { return fmt.Sprintf("VM %q is not there", e.ID) }

func (o *BackupsOptions) task(vm hikae.VM, provider hikae.SnapshotProvider, backend pipe.Backend) Task {
	t := Task{ID: vm.ID, VM: vm.Name, Kind: string(job.KindBackup), Claim: "vm/" + vm.ID}
	if o.Claim != nil {
		t.Claim = o.Claim(vm)
	}
	if o.Needs != nil {
		t.Needs = o.Needs(vm)
	} else {
		t.Needs = Needs(vm)
	}
	if o.Repository != "" {
		t.Needs = append(slices.Clip(t.Needs), "repository/"+o.Repository)
	}
	t.Do = func(ctx context.Context, a *Attempt) (Outcome, error) {
		each := o.each(vm)
		name := each.Name
		if name == "" {
			name = vm.Name
		}
		if point, err := MadeBy(ctx, backend, name, a.Run); err != nil || point != "" {
			return Outcome{Point: point}, err
		}
		facts := map[string]string{RunFact: a.Run}
		for k, v := range each.Facts {
			facts[k] = v
		}
		each.Facts = facts
		each.Events = both(each.Events, a.Events)
		res, err := job.Backup(ctx, provider, vm.ID, backend, each)
		record := &job.Record{Kind: job.KindBackup, Backup: &res}
		if err != nil {
			record.Error = err.Error()
		}
		return Outcome{Record: record, Point: res.Point, Warnings: res.Warnings}, err
	}
	return t
}

// each is how a VM is backed up, in a value of the task's own.
func (o *BackupsOptions) each(vm hikae.VM) *job.BackupOptions {
	each := job.BackupOptions{}
	if o.Each != nil {
		if given := o.Each(vm); given != nil {
			each = *given
		}
	}
	if each.BufferBytes <= 0 {
		each.BufferBytes = o.BufferBytes
	}
	if each.BufferBytes <= 0 {
		each.BufferBytes = bufferBytes
	}
	return &each
}

func both(a, b func(job.Event)) func(job.Event) {
	if a == nil {
		return b
	}
	return func(e job.Event) {
		a(e)
		b(e)
	}
}

// MadeBy is the point of a VM that a task of a run made before; empty: none. One that cannot be read is none that a run can rest on.
func MadeBy(ctx context.Context, backend pipe.Backend, vm, run string) (string, error) {
	made := ""
	for p, err := range backend.Points(ctx, vm) {
		if job.IsDamaged(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list points of %s: %w", vm, err)
		}
		if p.Facts[RunFact] == run {
			made = p.ID
		}
	}
	return made, nil
}
