package main

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/report"
)

// writeReports writes the files that the job's report goes to. What cannot be written is a warning: the points are there.
func (r *jobRun) writeReports() error {
	var errs []error
	told := sync.OnceValue(r.report) // reads what sessions left, which only people's reports need
	for _, target := range []struct {
		file  string
		write func(io.Writer) error
	}{
		{r.file.Report.JSON, func(w io.Writer) error { return outcome.WriteJSON(w, &r.doc) }},
		{r.file.Report.Text, func(w io.Writer) error { return told().Text(w) }},
		{r.file.Report.HTML, func(w io.Writer) error { return told().HTML(w) }},
	} {
		if target.file == "" {
			continue
		}
		var page bytes.Buffer
		err := target.write(&page)
		if err == nil {
			err = replaceFile(expand(target.file, r.file.Name, r.id, r.started), page.Bytes())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// replaceFile puts a file in the place of an older one at once. Its folder is made where it is missing.
func replaceFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// readOf is what was read of all disks.
func readOf(r *job.Result) string {
	n := int64(0)
	for _, d := range r.Disks {
		n += d.Read
	}
	return show.Size(n)
}

// report is the run for people, each VM with its own session and what is usual for it.
func (r *jobRun) report() *report.Job {
	d := &r.doc
	j := &report.Job{Name: d.Job, Run: d.Run, Started: d.Started, Seconds: d.Seconds, State: d.State, Error: d.Error, Warnings: d.Warnings, Notes: d.Notes}
	earlier := r.earlier()
	for i := range d.VMs {
		vm := &d.VMs[i]
		one := report.JobVM{VM: vm.VM, State: vm.State, Begun: vm.Begun, Waited: vm.Waited, Seconds: vm.Seconds, Attempts: vm.Attempts, Earlier: vm.earlier, Point: vm.Point}
		if vm.Error != nil {
			one.Error, one.Hint = vm.Error.Message, vm.Error.Hint
		}
		if vm.Result != nil {
			one.Session = report.New(job.Record{Kind: job.KindBackup, Backup: vm.Result, Error: one.Error}, earlier[vm.VM])
		}
		j.VMs = append(j.VMs, one)
	}
	for _, s := range d.Steps {
		j.Steps = append(j.Steps, report.JobStep{What: s.What, Where: s.Where, State: s.State, Begun: s.Started, Seconds: s.Seconds, Text: s.Text})
	}
	for _, h := range d.Hooks {
		j.Hooks = append(j.Hooks, report.JobHook{When: string(h.Hook), VM: h.VM, What: h.What, Seconds: h.Seconds, Result: cmp.Or(h.Error, "well"), Output: h.Output})
	}
	return j
}

// earlier are the records of this run's VMs that this machine has, by their VMs. One that cannot be read is missing in a trend, and nowhere else.
func (r *jobRun) earlier() map[string][]job.Record {
	if r.sessions == nil {
		return nil
	}
	mine := map[string]bool{}
	for _, vm := range r.doc.VMs {
		mine[vm.VM] = true
	}
	list, err := r.sessions.List(0, func(rec *job.Record) bool { return rec.Backup != nil && mine[rec.VM()] })
	if err != nil {
		r.t.tell("note: %v", err)
	}
	return report.Earlier(list)
}
