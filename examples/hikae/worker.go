package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/hooks"
	"github.com/hikae/hikae/job/jobfile"
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
	f.flags(cmd)
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
		return t.fleetBackup(ctx, files[w.Job], w)
	}
	worker := fleet.NewWorker(q, f.reach, map[string]fleet.Handler{string(job.KindBackup): backup},
		&fleet.WorkerOptions{Name: f.name, Slots: f.slots, Permanent: permanent, Events: t.tellFleet})
	t.tell("this machine works for %s", strings.Join(f.reach, ", "))
	service.Ready()
	return worker.Run(ctx)
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
	if err := j.fence(ctx, w); err != nil {
		return fleet.Report{}, err
	}
	r := &jobRun{openJob: j, id: w.Run, started: time.Now(), hooks: &jobHooks{t: t, list: file.Hooks, call: hooks.Call{Job: w.Job, Run: w.Run}}}
	if r.sessions, err = t.sessions(); err != nil {
		return fleet.Report{}, err
	}
	for _, vm := range j.vms {
		if vm.name == w.VM {
			out, err := r.backup(ctx, vm, &engine.Attempt{Number: w.Attempt, Run: w.Key()})
			report := fleet.Report{Point: out.Point, Warnings: out.Warnings}
			if out.Record != nil {
				report.Detail = out.Record.Backup
			}
			return report, err
		}
	}
	return fleet.Report{}, &outcome.Error{Kind: outcome.KindNotFound, Object: w.VM, Text: "no such VM in job " + w.Job}
}

// literal is a pattern that one name alone fits.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

// fence puts the repository of a task behind its claim.
func (j *openJob) fence(ctx context.Context, w *fleet.Work) error {
	if j.repo.local == nil {
		return &outcome.Error{Kind: outcome.KindUnsupported, Object: j.file.Name, Text: "the repository is behind a mover", Err: fleet.ErrCannotFence,
			Hint: "Give workers a repository that they reach themselves: a folder that is shared, or a bucket."}
	}
	b, err := w.Fence(ctx, "repository/"+j.repo.ID(), j.repo.place)
	if err != nil {
		return err
	}
	fenced := *j.repo
	fenced.place = &fencedPlace{b, j.repo.place}
	j.repo = &fenced
	return nil
}

// fencedPlace is a place whose points count only while the task is this worker's.
type fencedPlace struct {
	*fleet.Fenced
	place place
}

func (p *fencedPlace) ID() string           { return p.place.ID() }
func (p *fencedPlace) Close() error         { return p.place.Close() }
func (p *fencedPlace) Unwrap() pipe.Backend { return p.Fenced }
