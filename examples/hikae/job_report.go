package main

import (
	"bytes"
	_ "embed"
	"errors"
	"html/template"
	"io"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
)

// writeReports writes the files that the job's report goes to. What cannot be written is a warning: the points are there.
func (r *jobRun) writeReports() error {
	var errs []error
	for _, target := range []struct {
		file  string
		write func(io.Writer) error
	}{
		{r.file.Report.JSON, func(w io.Writer) error { return outcome.WriteJSON(w, &r.doc) }},
		{r.file.Report.Text, func(w io.Writer) error { return r.doc.print(&show.Printer{W: w}) }},
		{r.file.Report.HTML, r.page},
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

//go:embed job_page.html
var jobPageText string

// jobPage is the report as one page that needs nothing else and runs nothing. Names and errors come from outside: all text is escaped.
var jobPage = template.Must(template.New("job").Funcs(template.FuncMap{"took": show.Seconds, "size": show.Size, "short": short, "read": readOf}).Parse(jobPageText))

// readOf is what was read of all disks.
func readOf(r *job.Result) string {
	n := int64(0)
	for _, d := range r.Disks {
		n += d.Read
	}
	return show.Size(n)
}

// page writes the report as HTML.
func (r *jobRun) page(w io.Writer) error {
	var failures []vmDone
	for _, vm := range r.doc.VMs {
		if vm.Error != nil {
			failures = append(failures, vm)
		}
	}
	return jobPage.Execute(w, struct {
		*jobDoc
		Failures []vmDone
		Good     int
	}{&r.doc, failures, len(r.doc.VMs) - len(failures)})
}
