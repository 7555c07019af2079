package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/hooks"
	"github.com/hikae/hikae/job/jobfile"
	"github.com/hikae/hikae/job/queue"
)

// jobRun is one run of a job.
type jobRun struct {
	*openJob
	id       string
	started  time.Time
	sessions *job.Sessions
	hooks    *jobHooks
	doc      jobDoc

	telling sync.WaitGroup // hooks after VMs

	claims   hikae.Claimer
	queue    queue.Queue      // of a fleet, beside which the job is run; nil: none
	progress *engine.Progress // nil: nobody goes on with the run
	control  engine.Control   // pauses; it is ended by its context alone

	waiting map[string]bool // resources that VMs were said to wait for
}

// defaultTasks are the VMs at once where the file says nothing. Their guests, hosts and lines bear that anywhere.
const defaultTasks = 4

// newRunID is the id of a run that begins now: the time for people, and letters that make it the only one.
func newRunID(now time.Time) string {
	return now.UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:6])
}

// jobRunOnce runs a job and leaves its document.
func (t *tool) jobRunOnce(ctx context.Context, f *jobFlags, file *jobfile.File) (*reply, error) {
	doc, err := t.runJob(ctx, f, file, newRunID(time.Now()), nil)
	if doc == nil {
		return nil, err
	}
	return doc.reply(err)
}

// runJob is one run, or the rest of one that was ended before. The document is nil where nothing was begun.
func (t *tool) runJob(ctx context.Context, f *jobFlags, file *jobfile.File, id string, progress *engine.Progress) (_ *jobDoc, err error) {
	opened, err := t.openJob(ctx, f, file, false)
	if err != nil {
		return nil, err
	}
	r := &jobRun{openJob: opened, id: id, started: time.Now(), progress: progress, waiting: map[string]bool{}}
	defer func() {
		if closeErr := r.Close(); closeErr != nil && err == nil {
			r.doc.warn("%v", closeErr)
		}
	}()
	if r.sessions, err = t.sessions(); err != nil {
		return nil, err
	}
	if r.claims, err = t.claims(); err != nil {
		return nil, err
	}
	if f.beside.url != "" {
		q, err := f.beside.open(ctx, t)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		r.queue = q
	}
	r.hooks = &jobHooks{t: t, list: file.Hooks, call: hooks.Call{Job: file.Name, Run: id}}
	r.doc = jobDoc{Job: file.Name, Run: id, Started: r.started.UTC(), VMs: []vmDone{}, Steps: []jobStep{}, Hooks: []hooks.Record{}, Warnings: []string{}, Notes: []string{}}
	for _, text := range r.unfit() {
		r.doc.warn("%s", text)
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	return &r.doc, r.run(ctx)
}

// run does the work, and tells whoever is to be told, whatever came of it.
func (r *jobRun) run(ctx context.Context) error {
	boundMemory()
	defer r.hearPauses(ctx)()
	err := r.hooks.before(ctx, hooks.BeforeJob, "")
	if err == nil {
		err = r.work(ctx)
	}
	r.conclude(ctx, err)
	r.hooks.after(ctx, r.call())
	r.noteHooks()
	if problem := r.writeReports(); problem != nil {
		r.doc.warn("%v", problem)
	}
	r.doc.State = cmp.Or(r.doc.State, "done")
	if r.doc.State == "done" && len(r.doc.Warnings) > 0 {
		r.doc.State = "warned"
	}
	return err
}

// work is the backups, and what comes after them.
func (r *jobRun) work(ctx context.Context) error {
	if err := r.runVMs(ctx); err != nil {
		return err
	}
	r.late(ctx)
	r.telling.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	after, err := r.after(ctx), error(nil)
	if n := r.doc.failed(); n > 0 {
		err = fmt.Errorf("%d of %d VMs failed", n, len(r.doc.VMs))
	}
	return errors.Join(err, after)
}

// runVMs backs up the VMs, and puts what became of them into the document.
func (r *jobRun) runVMs(ctx context.Context) error {
	result, err := engine.Run(ctx, r.file.Name, r.tasks(), r.options(ctx))
	if len(result.Tasks) > 0 {
		err = nil // it is theirs
	}
	for _, task := range result.Tasks {
		done := vmDone{VM: task.VM, State: string(task.State), Attempts: task.Attempts, Waited: task.Waited, Seconds: task.Seconds, Point: task.Point, earlier: task.Earlier}
		if task.Attempts > 0 && !task.Earlier {
			done.Begun = result.Started.Add(time.Duration(task.Waited * float64(time.Second))).UTC()
		}
		if task.Record != nil {
			done.Result = task.Record.Backup
		}
		switch {
		case done.State == "cancelled": // whatever it was that met the end of the run
			done.Error = errorOf(task.VM, &outcome.Error{Kind: outcome.KindInterrupted, Object: "VM " + task.VM, Text: "the run was ended before its backup was"})
		case task.Err != nil:
			done.Error = errorOf(task.VM, task.Err)
		}
		for _, w := range task.Warnings { // the session's own stand in its result
			if done.Result == nil || !slices.Contains(done.Result.Warnings, w) {
				r.doc.warn("%s: %s", task.VM, w)
			}
		}
		r.doc.VMs = append(r.doc.VMs, done)
	}
	return err
}

// claims are what sessions of this machine take, so that no two work on one VM.
func (t *tool) claims() (hikae.Claimer, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	return hikae.OpenFileClaims(filepath.Join(state, "claims"))
}

// conclude says how the run ended.
func (r *jobRun) conclude(ctx context.Context, err error) {
	r.doc.Seconds = float64(time.Since(r.started).Milliseconds()) / 1000
	r.doc.Warnings = append(r.doc.Warnings, r.repo.said.onto(nil)...)
	warned := len(r.doc.Warnings) > 0
	for _, vm := range r.doc.VMs {
		warned = warned || vm.State == "warned"
	}
	switch {
	case ctx.Err() != nil:
		r.doc.State = "cancelled"
	case err != nil:
		r.doc.State = "failed"
		r.doc.Error = err.Error()
	case warned:
		r.doc.State = "warned"
	default:
		r.doc.State = "done"
	}
}

// call is what hooks after the run are told.
func (r *jobRun) call() hooks.Call {
	c := hooks.Call{Hook: hooks.AfterJob, State: r.doc.State, Error: r.doc.Error, Warnings: r.doc.Warnings, Seconds: r.doc.Seconds}
	for _, vm := range r.doc.VMs {
		c.VMs = append(c.VMs, hooks.VM{Name: vm.VM, State: vm.State, Point: vm.Point, Error: vm.errorText()})
	}
	return c
}

// noteHooks puts what became of the hooks into the document: one that failed is a warning.
func (r *jobRun) noteHooks() {
	r.doc.Hooks = r.hooks.records()
	for _, h := range r.doc.Hooks {
		if h.Error != "" {
			r.doc.warn("%s", h.Error)
		}
	}
}

// errorOf is an error of a VM as scripts get it.
func errorOf(vm string, err error) *outcome.Problem {
	if _, named := errors.AsType[*outcome.Error](err); !named {
		err = about("", "VM "+vm, err)
	}
	problem := outcome.Of(err)
	return &problem
}
