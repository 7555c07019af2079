package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job/jobfile"
)

// knownError is why a VM cannot be backed up, known before it was begun: trying it alone again finds the same.
type knownError struct{ error }

func (e *knownError) Unwrap() error { return e.error }

// late looks again for sources that were not there, now that the others have had their turn, as often as a VM is tried, and backs their
// VMs up. Those that stay away stand in the document as they did.
func (r *jobRun) late(ctx context.Context) {
	retry := r.options(ctx).Retry.OrDefault()
	wait := retry.First
	for range retry.Attempts - 1 {
		var away []*jobSource
		for _, s := range r.sources {
			if s.lost != nil && !permanent(s.lost) {
				away = append(away, s)
			}
		}
		if len(away) == 0 || !waited(ctx, wait) {
			return
		}
		wait = min(2*wait, retry.Most)
		for _, s := range away {
			r.lateSource(ctx, s)
		}
	}
}

func waited(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lateSource looks for a source once more.
func (r *jobRun) lateSource(ctx context.Context, s *jobSource) {
	all := slices.DeleteFunc(r.vms, func(vm *jobVM) bool { return vm.source == s })
	r.vms = nil
	if s.lost = s.find(ctx, r.openJob, s.from, s.from.URL); s.lost == nil {
		s.lost = s.ready(ctx, r.repo)
	}
	if s.lost != nil {
		r.t.tell("%s: looked for again: %s", s.name(), firstLineOf(s.lost))
		r.vms = append(all, &jobVM{name: s.name(), source: s, err: s.lost})
		if i := slices.IndexFunc(r.doc.VMs, func(vm vmDone) bool { return vm.VM == s.name() }); i >= 0 {
			r.doc.VMs[i].Attempts++
		}
		return
	}
	r.vms = slices.DeleteFunc(r.vms, func(vm *jobVM) bool {
		twice := slices.ContainsFunc(all, func(other *jobVM) bool { return other.name == vm.name })
		if twice {
			r.doc.warn("VM %s of %s was left out: another source has one of that name", vm.name, s.name())
		}
		return twice || !jobfile.Fits(r.only, vm.name)
	})
	r.doc.VMs = slices.DeleteFunc(r.doc.VMs, func(vm vmDone) bool { return vm.VM == s.name() })
	if err := r.runVMs(ctx); err != nil {
		r.doc.warn("%s: %v", s.name(), err)
	}
	r.vms = append(all, r.vms...)
}

// ready makes a source ready to be backed up from: what killed commands left is taken back, and effects are written down from here.
func (s *jobSource) ready(ctx context.Context, to *opened) (err error) {
	if s.provider == nil || s.journal != nil {
		return nil
	}
	if s.journal, err = s.tool.journal(ctx, to); err != nil {
		return err
	}
	if s.tool.site != nil {
		s.tool.site.hear(to.said)
	}
	return nil
}

// prepare makes all sources ready that are there.
func (j *openJob) prepare(ctx context.Context) error {
	for _, s := range j.sources {
		if s.lost != nil {
			continue
		}
		if err := s.ready(ctx, j.repo); err != nil {
			return err
		}
	}
	return nil
}

// away is why VMs cannot be found by their names: a source is not there.
func (j *openJob) away() error {
	var errs []error
	for _, s := range j.sources {
		if s.lost != nil {
			errs = append(errs, &outcome.Error{Object: s.name(), Text: s.name(), Err: s.lost})
		}
	}
	return errors.Join(errs...)
}
