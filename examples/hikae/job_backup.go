package main

import (
	"context"
	"errors"
	"net/url"
	"slices"

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
			t.Needs, t.Claim = r.needs(vm), vm.claim()
		}
		out = append(out, t)
	}
	return out
}

// end is what the backup of one VM goes by: where its point goes, and where its effects are written down.
type end struct {
	repo    *opened
	journal hikae.Journal
}

// backup is one attempt at one VM, with the hooks around it.
func (r *jobRun) backup(ctx context.Context, vm *jobVM, a *engine.Attempt) (engine.Outcome, error) {
	if vm.err != nil {
		return engine.Outcome{}, &knownError{about("", "VM "+vm.name, vm.err)}
	}
	if r.queue != nil {
		return r.besideFleet(ctx, vm, a)
	}
	return r.backupTo(ctx, vm, a, end{r.repo, vm.source.journal})
}

func (r *jobRun) backupTo(ctx context.Context, vm *jobVM, a *engine.Attempt, to end) (engine.Outcome, error) {
	if point, err := engine.MadeBy(ctx, to.repo, vm.name, a.Run); err != nil || point != "" { // by this run, before it was ended
		return engine.Outcome{Point: point}, err
	}
	var out engine.Outcome
	err := r.hooks.before(ctx, hooks.BeforeVM, vm.name)
	if err == nil {
		var result job.Result
		result, err = r.backUp(ctx, vm, a, to)
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

// needs are the resources that a VM's backup takes.
func (j *openJob) needs(vm *jobVM) []string {
	needs := engine.Needs(vm.told)
	if host := "host/" + vm.host(); !slices.Contains(needs, host) {
		needs = append(needs, host)
	}
	if u, err := url.Parse(vm.source.from.URL); err == nil && u.Query().Get("proxy") != "" {
		needs = append(needs, "proxy/"+u.Query().Get("proxy"))
	}
	return append(needs, "repository/"+outcome.Redact(j.file.Repository.URL))
}

// claim is what nobody else of this machine, or of a fleet, works on meanwhile.
func (vm *jobVM) claim() string { return "vm/" + vm.source.host + "/" + vm.name }

// backupOptions are how a VM is backed up, as far as that is known before it is.
func (j *openJob) backupOptions(vm *jobVM) (*job.BackupOptions, error) {
	opts, err := vm.source.flags.options()
	if err != nil {
		return nil, err
	}
	opts.Name, opts.Target = vm.name, j.repo.target
	if opts.Compression == "" {
		opts.Compression = j.repo.params().Compression
	}
	opts.Exclude = vm.source.flags.excluder(int64(j.repo.params().BlockSize))
	if vm.source.tool.server != nil || vm.source.tool.site != nil {
		opts.ReleaseDeadline = removalDeadline
	}
	return opts, nil
}

func (r *jobRun) backUp(ctx context.Context, vm *jobVM, a *engine.Attempt, to end) (job.Result, error) {
	opts, err := r.backupOptions(vm)
	if err != nil {
		return job.Result{VM: vm.name}, err
	}
	opts.Sessions, opts.Journal = r.sessions, to.journal
	opts.Facts, opts.Events = map[string]string{engine.RunFact: a.Run}, a.Events
	if r.limit != nil {
		opts.Wrap = limited(r.limit)
	}
	provider := vm.provider
	if off := vm.source.flags.off; off != nil {
		var note string
		if provider, note, err = off.provider(ctx, to.repo); err != nil {
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
	return job.Backup(ctx, provider, "", to.repo, opts)
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
