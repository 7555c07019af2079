package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/jobfile"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/pipe"
)

// replicatedDoc is what became of the replicas of a site.
type replicatedDoc struct {
	Replicas []replica.Result `json:"replicas"`
	Stored   int64            `json:"stored"`
}

// replicate brings replicas up to date with the new points of this run. A VM that failed keeps the replica that it has. One that
// fails does not keep the others from being done.
func (r *jobRun) replicate(ctx context.Context, c *jobfile.Replica) (_ jobStep, err error) {
	site, err := r.t.openSite(ctx, c.To, true)
	if err != nil {
		return jobStep{}, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	opts := &job.CopyOptions{}
	if c.Rate != "" {
		bytes, err := parseRate(string(c.Rate))
		if err != nil {
			return jobStep{}, err
		}
		limiter := pipe.NewLimiter(bytes)
		opts.Wrap = func(_ string, img pipe.Image) pipe.Image { return pipe.Limit(img, limiter) }
	}
	doc, errs := replicatedDoc{Replicas: []replica.Result{}}, []error(nil)
	for _, vm := range r.doc.VMs {
		if vm.Point == "" || !jobfile.Fits(c.VMs, vm.VM) {
			continue
		}
		done, err := r.replicateOne(ctx, site, c, vm.Point, opts)
		if err != nil {
			errs = append(errs, site.explain(vm.VM, err))
			continue
		}
		for _, w := range done.Warnings {
			r.doc.warn("replica of %s: %s", vm.VM, w)
		}
		for _, s := range done.Syncs {
			doc.Stored += s.Stored
		}
		doc.Replicas = append(doc.Replicas, done)
	}
	return jobStep{Result: doc, Text: fmt.Sprintf("%s, %s stored", show.Count(len(doc.Replicas), "replica"), show.Size(doc.Stored))}, errors.Join(errs...)
}

func (r *jobRun) replicateOne(ctx context.Context, site *replicaSite, c *jobfile.Replica, id string, opts *job.CopyOptions) (replica.Result, error) {
	p, err := r.repo.Resolve(ctx, id)
	if err != nil {
		return replica.Result{}, err
	}
	from := &replica.FromPoints{From: r.repo, VM: p.VM, Point: p.ID, Copy: opts}
	return site.of(r.t, p.VM, c.Keep).Sync(ctx, from)
}
