package main

import (
	"context"
	"errors"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/hooks"
)

// tasks are the backups of the VMs.
func (r *jobRun) tasks() []engine.Task {
	var out []engine.Task
	for _, vm := range r.vms {
		t := engine.Task{ID: vm.name, VM: vm.name, Kind: string(job.KindBackup),
			Do: func(ctx context.Context, a *engine.Attempt) (engine.Outcome, error) { return r.backup(ctx, vm, a) }}
		if vm.err == nil {
			t.Needs = []string{"host/" + vm.host()}
			t.Claim = "vm/" + vm.source.host + "/" + vm.name
		}
		out = append(out, t)
	}
	return out
}

// backup is one attempt at one VM, with the hooks around it.
func (r *jobRun) backup(ctx context.Context, vm *jobVM, a *engine.Attempt) (engine.Outcome, error) {
	if vm.err != nil {
		return engine.Outcome{}, &knownError{about("", "VM "+vm.name, vm.err)}
	}
	if point, err := engine.MadeBy(ctx, r.repo, vm.name, a.Run); err != nil || point != "" { // by this run, before it was ended
		return engine.Outcome{Point: point}, err
	}
	var out engine.Outcome
	err := r.hooks.before(ctx, hooks.BeforeVM, vm.name)
	if err == nil {
		var result job.Result
		result, err = r.backUp(ctx, vm, a)
		out = engine.Outcome{Record: &job.Record{Kind: job.KindBackup, Backup: &result}, Point: result.Point, Warnings: result.Warnings}
	}
	if err != nil {
		if out.Record != nil {
			out.Record.Error = err.Error()
		}
		err = about(r.file.Repository.URL, "VM "+vm.name, err)
	}
	return out, err
}

func (r *jobRun) backUp(ctx context.Context, vm *jobVM, a *engine.Attempt) (job.Result, error) {
	opts, err := vm.source.flags.options()
	if err != nil {
		return job.Result{VM: vm.name}, err
	}
	opts.Name, opts.Sessions, opts.Journal, opts.Target = vm.name, r.sessions, vm.source.journal, r.repo.target
	opts.Facts, opts.Events = map[string]string{engine.RunFact: a.Run}, a.Events
	if r.limit != nil {
		opts.Wrap = limited(r.limit)
	}
	if opts.Compression == "" {
		opts.Compression = r.repo.params().Compression
	}
	opts.Exclude = vm.source.flags.excluder(int64(r.repo.params().BlockSize))
	if vm.source.tool.server != nil || vm.source.tool.site != nil {
		opts.ReleaseDeadline = removalDeadline
	}
	provider := vm.provider
	if off := vm.source.flags.off; off != nil {
		var note string
		if provider, note, err = off.provider(ctx, r.repo); err != nil {
			return job.Result{VM: vm.name}, err
		}
		opts.Notes = append(opts.Notes, note)
	}
	if g := r.guestOf(vm.name); g != nil {
		variables, err := r.t.setting("HIKAE_GUEST_PASSWORD", g.PasswordFile, g.PasswordEnv)
		if err != nil {
			return job.Result{VM: vm.name}, err
		}
		work, done, err := vm.source.tool.with(variables).guestWork(ctx, jobGuest(g, vm.name), vm.name)
		if err != nil {
			return job.Result{VM: vm.name}, err
		}
		defer done()
		opts.Guest = work
	}
	return job.Backup(ctx, provider, "", r.repo, opts)
}

// permanent are errors that another try cannot mend.
func permanent(err error) bool {
	switch outcome.Of(err).Kind {
	case outcome.KindUsage, outcome.KindSecret, outcome.KindUnsupported, outcome.KindAmbiguous, outcome.KindRollback, outcome.KindReadOnly:
		return true
	}
	known, _ := errors.AsType[*knownError](err)
	busy, _ := errors.AsType[*hikae.BusyError](err)
	return known != nil || busy != nil || errors.Is(err, errHookStops)
}
