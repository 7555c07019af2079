package main

import (
	"context"
	"fmt"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
)

// severalResult is what a backup of several VMs leaves.
type severalResult struct {
	Session string      `json:"session"` // of the first VM
	Results []vmOutcome `json:"results"` // one for each VM
}

// vmOutcome is what became of one VM: its result, and the error where it failed.
type vmOutcome struct {
	job.Result
	Error *outcome.Problem `json:"error,omitempty"`
}

// severalVMs is a provider of VMs that are backed up one by one.
type severalVMs interface {
	only(id string) hikae.SnapshotProvider
}

// sharedVMs is one whose VMs share snapshots: what nobody asked for is released at the end.
type sharedVMs interface {
	close(ctx context.Context) error
}

// backupSeveral makes a point of one VM after the other. One that fails does not keep the others from theirs.
func (t *tool) backupSeveral(ctx context.Context, f *backupFlags, provider severalVMs, r *opened, opts *job.BackupOptions) (*reply, error) {
	var all severalResult
	left := &reply{}
	var replies []*reply
	failed := 0
	for _, vm := range f.several {
		opts.Name = vm.name
		result, err := job.Result{}, vm.err
		if err == nil {
			result, err = job.Backup(ctx, provider.only(vm.id), "", r, opts)
		}
		one := backedUp(result, r.said)
		done := vmOutcome{Result: one.doc.(job.Result)}
		if done.VM == "" {
			done.VM = vm.name
		}
		if err != nil {
			about := about(f.repo, "VM "+vm.name, err)
			if vm.err != nil {
				about = &outcome.Error{Object: vm.name, Text: "its VMs were not backed up", Err: err}
			}
			problem := outcome.Of(about)
			done.Error = &problem
			left.warnings = append(left.warnings, problem.Text(vm.name+":"))
			failed++
		} else {
			replies = append(replies, one)
			left.warnings = append(left.warnings, one.warnings...)
			left.notes = append(left.notes, one.notes...)
			left.status = max(left.status, one.status)
		}
		all.Results = append(all.Results, done)
	}
	if shared, ok := provider.(sharedVMs); ok {
		if err := shared.close(ctx); err != nil {
			left.warnings = append(left.warnings, fmt.Sprintf("what VMs shared could not be released: %v", err))
			left.status = max(left.status, outcome.Warned)
		}
	}
	all.Session = all.Results[0].Session
	left.doc = all
	left.text = func(w *show.Printer) error {
		for _, one := range replies {
			if err := one.text(w); err != nil {
				return err
			}
		}
		return w.Printf("%d of %d VMs backed up\n", len(replies), len(all.Results))
	}
	if failed > 0 {
		return left, fmt.Errorf("%d of %d VMs failed", failed, len(all.Results))
	}
	return left, nil
}
