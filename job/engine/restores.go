package engine

import (
	"context"
	"errors"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// RestoresOptions change how tasks are made of points that are brought back. Nil and zero fields are good defaults.
type RestoresOptions struct {
	// Each is how one point is restored; nil, or a nil answer: as job.Restore does by default, to a new VM. Events are the task's too.
	Each func(p pipe.PointInfo) *job.RestoreOptions
	// Needs are the resources that a restore takes; nil: none.
	Needs func(p pipe.PointInfo) []string
	// Claim names what nobody else may work on meanwhile; nil: "vm/" and the id of the VM that is written into in place, else nothing.
	Claim func(p pipe.PointInfo) string
	// BufferBytes is the memory of each restore, where Each does not say. Zero: 16 MiB.
	BufferBytes int64
}

// Restores makes a task of each point: its disks are written to what the restorer makes, or into what is there. A task is named by its point. A
// restore to a new VM that was killed behind its commit is no longer known to be done: the next attempt meets the VM's name.
func Restores(backend pipe.Backend, points []pipe.PointInfo, restorer hikae.Restorer, opts *RestoresOptions) []Task {
	o := RestoresOptions{}
	if opts != nil {
		o = *opts
	}
	tasks := make([]Task, 0, len(points))
	for _, p := range points {
		tasks = append(tasks, o.task(p, backend, restorer))
	}
	return tasks
}

func (o *RestoresOptions) task(p pipe.PointInfo, backend pipe.Backend, restorer hikae.Restorer) Task {
	t := Task{ID: p.ID, VM: p.VM, Kind: string(job.KindRestore)}
	if o.Needs != nil {
		t.Needs = o.Needs(p)
	}
	each := o.each(p)
	switch {
	case o.Claim != nil:
		t.Claim = o.Claim(p)
	case each.InPlace != "":
		t.Claim = "vm/" + each.InPlace
	}
	t.Do = func(ctx context.Context, a *Attempt) (Outcome, error) {
		each := o.each(p)
		each.Events = both(each.Events, a.Events)
		res, err := job.Restore(ctx, backend, p, restorer, each)
		record := &job.Record{Kind: job.KindRestore, Restore: &res}
		if err != nil {
			record.Error = err.Error()
		}
		return Outcome{Record: record, Point: p.ID, Warnings: res.Warnings}, err
	}
	return t
}

func (o *RestoresOptions) each(p pipe.PointInfo) *job.RestoreOptions {
	each := job.RestoreOptions{}
	if o.Each != nil {
		if given := o.Each(p); given != nil {
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

// CopiesOptions change how tasks are made of points that are copied. Nil and zero fields are good defaults.
type CopiesOptions struct {
	// Each is how one point is copied; nil, or a nil answer: as job.CopyPoint does by default. Events are the task's too.
	Each func(p pipe.PointInfo) *job.CopyOptions
	// Needs are the resources that the copies of a VM take; nil: none.
	Needs func(vm string) []string
	// BufferBytes is the memory of each copy, where Each does not say. Zero: 16 MiB.
	BufferBytes int64
}

// Copies makes a task of each VM that has points among these: they are copied in the order given, which has to be that of their commits. What
// is there already is not copied again, and a point that is older than the newest there is a warning, not a failure: it would come too
// late in every attempt.
func Copies(to, from pipe.Backend, points []pipe.PointInfo, opts *CopiesOptions) []Task {
	o := CopiesOptions{}
	if opts != nil {
		o = *opts
	}
	var names []string
	of := map[string][]pipe.PointInfo{}
	for _, p := range points {
		if len(of[p.VM]) == 0 {
			names = append(names, p.VM)
		}
		of[p.VM] = append(of[p.VM], p)
	}
	tasks := make([]Task, 0, len(names))
	for _, vm := range names {
		tasks = append(tasks, o.task(vm, of[vm], to, from))
	}
	return tasks
}

func (o *CopiesOptions) task(vm string, points []pipe.PointInfo, to, from pipe.Backend) Task {
	t := Task{ID: "copy/" + vm, VM: vm, Kind: "copy", Claim: "copy/" + vm}
	if o.Needs != nil {
		t.Needs = o.Needs(vm)
	}
	t.Do = func(ctx context.Context, a *Attempt) (out Outcome, err error) {
		for _, p := range points {
			each := o.each(p)
			each.Events = both(each.Events, a.Events)
			copied, err := job.CopyPoint(ctx, to, from, p, each)
			if late, ok := errors.AsType[*job.OlderError](err); ok {
				out.Warnings = append(out.Warnings, late.Error())
				continue
			}
			out.Copied = append(out.Copied, copied)
			if err != nil {
				return out, err
			}
			out.Point = copied.To
		}
		return out, nil
	}
	return t
}

func (o *CopiesOptions) each(p pipe.PointInfo) *job.CopyOptions {
	each := job.CopyOptions{}
	if o.Each != nil {
		if given := o.Each(p); given != nil {
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
