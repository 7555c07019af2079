package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/hooks"
	"github.com/hikae/hikae/job/jobfile"
	"github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/pipe"
)

// workerFlags are what a worker reaches, and what it knows.
type workerFlags struct {
	queueFlags
	reach []string
	jobs  []string
	slots int
	name  string
}

func (t *tool) workerCommand() *cobra.Command {
	f := &workerFlags{}
	cmd := &cobra.Command{
		Use:   "worker --queue URL --credentials-file FILE --job FILE… [--reach LABEL]…",
		Short: "Do backups of a fleet on this machine",
		Long: text(`
Take tasks from a queue (hikae fleet run) and do them here: backups of VMs that the job files of this machine name, with the secrets that
they name. Nothing else can be asked for through the queue.

The command stays in the foreground. On SIGTERM it ends what it does and gives it back to others. A worker that dies or is cut off loses
its tasks after the queue's lease; another one ends its session in the repository, so that what it may still commit is refused, and does
them anew, from what was durable. For that the repository must be one that workers reach themselves, not one behind a mover.`),
		Example: example(`hikae worker --queue tls://queue:4222 --credentials-file /etc/hikae/queue --reach site/berlin --job nightly.yaml`),
		Args:    want(),
	}
	f.required(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.reach, "reach", []string{"default"}, "`LABEL` of what this machine reaches; may repeat")
	flags.StringArrayVar(&f.jobs, "job", nil, "job `FILE` whose VMs it may be asked for; may repeat (required)")
	flags.IntVar(&f.slots, "slots", 4, "tasks at once")
	flags.StringVar(&f.name, "name", "", "`NAME` of this worker; default: the machine's and a number")
	if err := cmd.MarkFlagRequired("job"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return nil, service.Run(ctx, "hikae-worker", func(ctx context.Context) error { return t.work(ctx, f) })
	})
	return cmd
}

func (t *tool) work(ctx context.Context, f *workerFlags) error {
	if f.slots < 1 || f.slots > 256 {
		return outcome.Usage("", "--slots is from 1 to 256")
	}
	files := map[string]*jobfile.File{}
	for _, path := range f.jobs {
		file, err := readJob(t, path)
		if err != nil {
			return err
		}
		if files[file.Name] != nil {
			return outcome.Usage("", "two of the files are job %s", file.Name)
		}
		files[file.Name] = file
	}
	q, err := f.open(ctx, t)
	if err != nil {
		return err
	}
	defer q.Close()
	backup := func(ctx context.Context, w *fleet.Work) (fleet.Report, error) {
		one := *t // what a task is logged in to is let go of with it
		one.ends = nil
		defer one.end()
		return one.fleetBackup(ctx, files[w.Job], w)
	}
	worker := fleet.NewWorker(q, f.reach, map[string]fleet.Handler{string(job.KindBackup): backup},
		&fleet.WorkerOptions{Name: f.name, Slots: f.slots, Permanent: permanentInFleet, Events: t.tellFleet})
	t.tell("this machine works for %s", strings.Join(f.reach, ", "))
	service.Ready()
	return worker.Run(ctx)
}

// permanentInFleet are errors that another try cannot mend, on any machine. A VM that somebody is at is free later.
func permanentInFleet(err error) bool {
	busy, _ := errors.AsType[*hikae.BusyError](err)
	return permanent(err) && busy == nil
}

func (t *tool) tellFleet(e fleet.Event) {
	switch {
	case e.What == fleet.Away:
		t.tell("the queue: %s", firstLineOf(e.Err))
	case e.Wait > 0:
		t.tell("%s: %s: %s; again in %s", e.VM, e.What, firstLineOf(e.Err), show.Seconds(e.Wait.Seconds()))
	case e.Err != nil:
		t.tell("%s: %s: %s", e.VM, e.What, firstLineOf(e.Err))
	default:
		t.tell("%s: %s%s", e.VM, e.What, again(e.Attempt))
	}
}

// fleetBackup is one attempt at one VM, by this machine's own job file.
func (t *tool) fleetBackup(ctx context.Context, file *jobfile.File, w *fleet.Work) (_ fleet.Report, err error) {
	if file == nil {
		return fleet.Report{}, fmt.Errorf("this worker has no file of job %s", w.Job)
	}
	j, err := t.openJob(ctx, &jobFlags{only: []string{literal(w.VM)}}, file, false)
	if err != nil {
		return fleet.Report{}, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	if err := j.prepare(ctx); err != nil {
		return fleet.Report{}, err
	}
	r := &jobRun{openJob: j, id: w.Run, started: time.Now(), hooks: &jobHooks{t: t, list: file.Hooks, call: hooks.Call{Job: w.Job, Run: w.Run}}}
	if r.sessions, err = t.sessions(); err != nil {
		return fleet.Report{}, err
	}
	for _, vm := range j.vms {
		if vm.name == w.VM {
			return r.fleetVM(ctx, vm, w)
		}
	}
	return fleet.Report{}, &outcome.Error{Kind: outcome.KindNotFound, Object: w.VM, Text: "no such VM in job " + w.Job}
}

// fleetVM backs up one VM under the claim of a task. A session of this machine that is run beside the fleet goes first.
func (r *jobRun) fleetVM(ctx context.Context, vm *jobVM, w *fleet.Work) (_ fleet.Report, err error) {
	claims, err := r.t.claims()
	if err != nil {
		return fleet.Report{}, err
	}
	own, err := claims.Claim(ctx, vm.claim(), fmt.Sprintf("job %s, run %s of a fleet", w.Job, w.Run))
	if busy, ok := errors.AsType[*hikae.BusyError](err); ok {
		return fleet.Report{}, &queue.HeldError{What: busy.What, Owner: busy.Owner, Since: time.Now()}
	}
	if err != nil {
		return fleet.Report{}, err
	}
	defer func() { err = errors.Join(err, own.Release(context.WithoutCancel(ctx))) }()
	to, err := r.fenced(ctx, vm, w)
	if err != nil {
		return fleet.Report{}, err
	}
	out, err := r.backupTo(ctx, vm, &engine.Attempt{Number: w.Attempt, Run: w.Key()}, to)
	report := fleet.Report{Point: out.Point, Warnings: out.Warnings}
	if out.Record != nil {
		report.Detail = out.Record.Backup
	}
	return report, err
}

// literal is a pattern that one name alone fits.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

// fenced puts the backup of a VM behind its claim: what who held it before left is ended and taken back first.
func (r *jobRun) fenced(ctx context.Context, vm *jobVM, w *fleet.Work) (end, error) {
	to := end{r.repo, vm.source.journal}
	if r.repo.local == nil {
		return to, &outcome.Error{Kind: outcome.KindUnsupported, Object: r.file.Name, Text: "the repository is behind a mover", Err: fleet.ErrCannotFence,
			Hint: "Give workers a repository that they reach themselves: a folder that is shared, or a bucket."}
	}
	b, err := w.Fence(ctx, "repository/"+r.repo.ID(), r.repo.place)
	if err != nil {
		return to, err
	}
	repo := *r.repo
	repo.place = &fencedPlace{b, r.repo.place}
	to.repo = &repo
	undone, err := w.Sweep(ctx, r.repo.ID(), vm.source.tool.fleetSweepers(r.repo), nil)
	if undone > 0 {
		r.t.tell("%s: of what a worker that was lost left, %s", vm.name, removed(undone))
	}
	if err != nil { // where it is in the way the backup says so
		r.t.tell("%s: what a worker that was lost left could not be removed: %s", vm.name, firstLineOf(err))
	}
	to.journal = w.Journal(vm.source.journal)
	return to, nil
}

// fleetSweepers take back what another machine's backup left. Whoever has the queue's credentials can write what they are given, so they are for what a backup makes on the
// server that this source is, by its mark, and for nothing that lies on this machine or that a restore makes.
func (t *tool) fleetSweepers(r *opened) map[string]hikae.Sweeper {
	v, h := vsphereSweeper{t}, hypervSweeper{t, r}
	return map[string]hikae.Sweeper{"vmware.snapshot": v, "vmware.relocation": v, "vmware.tracking": v,
		"hyperv.checkpoint": h, "hyperv.reference": h, "hyperv.base": h, "hyperv.set": h, "hyperv.volume.": h}
}

// besideFleet is an attempt at a VM that workers of a fleet may be at, too.
func (r *jobRun) besideFleet(ctx context.Context, vm *jobVM, a *engine.Attempt) (out engine.Outcome, err error) {
	task := fleet.Task{ID: vm.name, VM: vm.name, Kind: string(job.KindBackup), Claim: vm.claim()}
	w, err := fleet.Alone(ctx, r.queue, r.file.Name, r.id, fmt.Sprintf("job %s, run %s", r.file.Name, r.id), task)
	if err != nil {
		return engine.Outcome{}, about("", "VM "+vm.name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		cancel(nil)
		if problem := w.Release(context.WithoutCancel(ctx)); problem != nil {
			out.Warnings = append(out.Warnings, problem.Error())
		}
	}()
	go func() {
		select {
		case <-w.Lost():
			cancel(engine.ErrLost)
		case <-ctx.Done():
		}
	}()
	to, err := r.fenced(ctx, vm, w)
	if errors.Is(err, fleet.ErrCannotFence) { // the claim keeps others away, for as long as the queue can be reached
		to, err = end{r.repo, vm.source.journal}, nil
	}
	if err != nil {
		return engine.Outcome{}, about(r.file.Repository.URL, "VM "+vm.name, err)
	}
	if out, err = r.backupTo(ctx, vm, a, to); err != nil && errors.Is(context.Cause(ctx), engine.ErrLost) {
		err = errors.Join(engine.ErrLost, err)
	}
	return out, err
}

// fencedPlace is a place whose points count only while the task is this worker's.
type fencedPlace struct {
	*fleet.Fenced
	place place
}

func (p *fencedPlace) ID() string           { return p.place.ID() }
func (p *fencedPlace) Close() error         { return p.place.Close() }
func (p *fencedPlace) Unwrap() pipe.Backend { return p.Fenced }
