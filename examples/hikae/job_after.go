package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/jobfile"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

// after does what comes after the VMs: copies first, since what is forgotten cannot be copied any more; then what goes; then the look
// at what is left. Points go only where no VM failed: who has no new point needs the old ones. A step that fails does not keep the others from being done.
// Each is begun inside the window, and waits for it like a VM.
func (r *jobRun) after(ctx context.Context) error { return r.runSteps(ctx, r.steps()) }

func (r *jobRun) runSteps(ctx context.Context, list []engine.Task) error {
	o := r.options(ctx)
	o.Limits, o.Progress, o.Claims, o.Retry = map[string]int{"tasks": 1}, nil, nil, engine.Retry{Attempts: 1}
	o.Events = func(e engine.Event) { r.stepEvent(e) }
	_, err := engine.Run(ctx, r.file.Name, list, o)
	return err
}

// steps are what comes after the VMs, one after the other.
func (r *jobRun) steps() (list []engine.Task) {
	add := func(what, where string, do func(context.Context) (jobStep, error)) {
		list = append(list, r.stepTask(fmt.Sprint(len(list), " ", what), what, where, do))
	}
	for i := range r.file.Copies {
		c := &r.file.Copies[i]
		add("copy", c.Repository.URL, func(ctx context.Context) (jobStep, error) { return r.copyTo(ctx, c) })
	}
	for i := range r.file.Replicas {
		c := &r.file.Replicas[i]
		add("replicate", c.To, func(ctx context.Context) (jobStep, error) { return r.replicate(ctx, c) })
	}
	here := r.file.Repository.URL
	switch failed := r.doc.failed(); {
	case r.file.Retention == nil:
	case failed > 0:
		r.doc.Notes = append(r.doc.Notes, fmt.Sprintf("nothing was forgotten, as %d VMs have no new point", failed))
	default:
		add("forget", here, func(ctx context.Context) (jobStep, error) { return r.retain(ctx, r.repo, r.file.Retention, false) })
		if r.file.Retention.Prune {
			add("prune", here, func(ctx context.Context) (jobStep, error) { return prune(ctx, r.repo) })
		}
	}
	if b := r.file.BootCheck; b != nil {
		for _, vm := range r.doc.VMs { // one after the other: each takes this machine's memory and processors
			if vm.Point != "" && jobfile.Fits(b.VMs, vm.VM) {
				add("boot-check", vm.VM, func(ctx context.Context) (jobStep, error) { return r.bootCheck(ctx, b, vm.Point) })
			}
		}
	}
	if v := r.file.Verify; v != nil {
		add("verify", here, func(ctx context.Context) (jobStep, error) { return r.verify(ctx, v) })
	}
	return list
}

func (r *jobRun) stepTask(id, what, where string, do func(context.Context) (jobStep, error)) engine.Task {
	return engine.Task{ID: id, VM: what, Kind: what, Do: func(ctx context.Context, _ *engine.Attempt) (engine.Outcome, error) {
		return engine.Outcome{}, r.step(ctx, what, where, do)
	}}
}

// step does one thing, and puts what came of it into the document. One that the window or a pause ended is begun again, and is not
// in there until then.
func (r *jobRun) step(ctx context.Context, what, where string, do func(context.Context) (jobStep, error)) error {
	begun := time.Now()
	s, err := do(ctx)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, engine.ErrClosed) || errors.Is(cause, engine.ErrPaused)) {
		return err
	}
	s.What, s.Where, s.Seconds = what, outcome.Redact(where), float64(time.Since(begun).Milliseconds())/1000
	s.Started = begun.UTC()
	switch {
	case err != nil:
		s.State, s.status = "failed", outcome.Of(err).Status()
		s.Error, s.Text = err.Error(), "failed: "+err.Error()
	case s.status == outcome.Damaged:
		s.State = "failed"
	case s.status == outcome.Warned:
		s.State = "warned"
	default:
		s.State = "done"
	}
	r.doc.Steps = append(r.doc.Steps, s)
	return err
}

// names are the VMs of the run.
func (j *openJob) names() (out []string) {
	for _, vm := range j.vms {
		if vm.provider != nil {
			out = append(out, vm.name)
		}
	}
	slices.Sort(out)
	return out
}

// copyTo copies the new points of this run.
func (r *jobRun) copyTo(ctx context.Context, c *jobfile.Copy) (_ jobStep, err error) {
	_, to, err := r.t.openPlace(ctx, &c.Repository, false)
	if err != nil {
		return jobStep{}, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if to.ID() == r.repo.ID() {
		return jobStep{}, outcome.Usage("Name another repository.", "%s is the job's own repository", c.Repository.URL)
	}
	opts := job.CopyOptions{Compression: to.params().Compression}
	if c.Rate != "" {
		bytes, err := parseRate(string(c.Rate))
		if err != nil {
			return jobStep{}, err
		}
		limiter := pipe.NewLimiter(bytes)
		opts.Wrap = func(_ string, img pipe.Image) pipe.Image { return pipe.Limit(img, limiter) }
	}
	doc, errs := copyDoc{Points: []job.Copied{}}, []error(nil)
	for _, vm := range r.doc.VMs {
		if vm.Point == "" {
			continue
		}
		done, err := r.copyOne(ctx, to, vm.Point, &opts)
		if err != nil {
			errs = append(errs, about(c.Repository.URL, "", err))
			continue
		}
		doc.Points, doc.Moved, doc.Stored = append(doc.Points, done), doc.Moved+done.Moved, doc.Stored+done.Stored
	}
	s := jobStep{Result: doc, Text: fmt.Sprintf("%s, %s stored", show.Count(len(doc.Points), "point"), show.Size(doc.Stored))}
	if len(errs) == 0 && c.Retention != nil && r.doc.failed() == 0 {
		more, err := r.retain(ctx, to, c.Retention, false)
		if err != nil {
			return s, err
		}
		s.Text += "; " + more.Text
		if c.Retention.Prune {
			more, err := prune(ctx, to)
			if err != nil {
				return s, err
			}
			s.Text += "; " + more.Text
		}
	}
	return s, errors.Join(errs...)
}

func (r *jobRun) copyOne(ctx context.Context, to *opened, id string, opts *job.CopyOptions) (job.Copied, error) {
	p, err := r.repo.Resolve(ctx, id)
	if err != nil {
		return job.Copied{}, err
	}
	one := *opts
	return job.CopyPoint(ctx, to, r.repo, p, &one)
}

// retain applies a retention to the job's VMs.
func (j *openJob) retain(ctx context.Context, at *opened, r *jobfile.Retention, dry bool) (jobStep, error) {
	if at.local == nil {
		return jobStep{}, outcome.Usage("Apply it on the repository's machine: `hikae forget`.", "points behind a mover cannot be forgotten from here")
	}
	zone, err := jobfile.LoadZone(r.Zone)
	if err != nil {
		return jobStep{}, err
	}
	plan, err := at.local.Retain(ctx, r.Keep.Policy, &repo.RetainOptions{VMs: j.names(), Zone: zone, Now: time.Now(), DryRun: dry, Note: "job " + j.file.Name})
	if err != nil {
		return jobStep{}, about(j.file.Repository.URL, "forget points", err)
	}
	doc := forgetDoc{Removed: []decision{}, Kept: []decision{}, DryRun: dry}
	doc.add(plan)
	word := "forgotten"
	if dry {
		word = "would go"
	}
	return jobStep{Result: doc, Text: fmt.Sprintf("%s %s, %d stay", show.Count(len(doc.Removed), "point"), word, len(doc.Kept))}, nil
}

func prune(ctx context.Context, at *opened) (jobStep, error) {
	if at.local == nil {
		return jobStep{}, outcome.Usage("Run `hikae prune` on the repository's machine.", "a place behind a mover cannot be pruned from here")
	}
	begun := time.Now()
	report, err := at.local.Prune(ctx, nil)
	if err != nil {
		return jobStep{}, err
	}
	s := jobStep{Result: pruneDoc{report, time.Since(begun).Seconds()}, Text: fmt.Sprintf("%d objects removed, %s freed", report.Deleted, show.Size(report.Freed))}
	if len(report.Unreadable)+len(report.Stopped) > 0 {
		s.status, s.Text = outcome.Warned, s.Text+"; some cannot be read and stay: `hikae prune` says more"
	}
	return s, nil
}

// bootCheck starts a point, as hikae bootcheck does.
func (r *jobRun) bootCheck(ctx context.Context, b *jobfile.BootCheck, point string) (jobStep, error) {
	variables, err := r.t.setting("HIKAE_PASSWORD", "", r.file.Repository.PasswordEnv)
	if err != nil {
		return jobStep{}, err
	}
	a := *r.access
	f := &bootFlags{access: &a, probe: b.Probe, within: b.Deadline.Or(10 * time.Minute), agent: len(b.WaitFor) == 0}
	f.Accel = b.Accel
	for _, sign := range b.WaitFor {
		kind, what, _ := strings.Cut(sign, ":")
		switch kind {
		case "agent":
			f.agent = true
		case "screen":
			f.screen = true
		case "serial":
			f.serial = what
		case "tcp":
			port, err := strconv.Atoi(what)
			if err != nil {
				return jobStep{}, err
			}
			f.ports = append(f.ports, port)
		}
	}
	left, err := r.t.fork(variables).bootcheck(ctx, f, point)
	s := jobStep{Text: "it boots"}
	if left != nil {
		s.Result = left.doc
		if len(left.warnings) > 0 {
			s.status, s.Text = outcome.Warned, "it boots; "+strings.Join(left.warnings, "; ")
		}
	}
	return s, err
}

// verify looks at the repository.
func (r *jobRun) verify(ctx context.Context, v *jobfile.Verify) (jobStep, error) {
	if r.repo.local == nil {
		return jobStep{}, outcome.Usage("Run `hikae verify` on the repository's machine.", "a place behind a mover cannot be verified from here")
	}
	opts := &repo.VerifyOptions{Declare: r.repo.local.Writable() == nil}
	var err error
	if opts.DataPercent, err = parseShare(string(v.Data)); err != nil {
		return jobStep{}, err
	}
	if v.Rate != "" {
		if opts.Rate, err = parseRate(string(v.Rate)); err != nil {
			return jobStep{}, err
		}
	}
	if v.Days > 0 {
		opts.Rotation = &repo.Rotation{Days: v.Days}
	}
	begun := time.Now()
	report, err := r.repo.local.Verify(ctx, opts)
	if err != nil {
		return jobStep{}, about(r.file.Repository.URL, "verify", err)
	}
	doc := verified(report, time.Since(begun))
	s := jobStep{Result: doc, status: doc.status(), Text: fmt.Sprintf("all is well: %d objects, %s read", doc.Checked.Objects, show.Size(doc.Checked.Bytes))}
	if n := len(doc.Damaged); n > 0 {
		s.Text = fmt.Sprintf("%d places are damaged: `hikae verify --repair` mends what can be mended", n)
	}
	return s, nil
}
