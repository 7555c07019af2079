// Package selftest takes a virtual machine through everything that Hikae does with one, without harm to it: it is backed up
// into a repository that is thrown away, twice, verified, restored to scratch and compared; and nothing is left of it.
//
// Reach for it to write a hypervisor's own selftest, as kvm/selftest and vmware/selftest do: they say what has to be seen
// before and after. Each step is a line of a table that can be sent to whoever can help.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/internal/freespace"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// Status is how a step ended.
type Status string

const (
	OK      Status = "ok"
	Warned  Status = "warning" // done, with something that a person should know
	Failed  Status = "failed"
	Skipped Status = "skipped" // an earlier step failed, or it cannot be tried here, as the detail says
)

// Step is one line of the result.
type Step struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Result is what the test found. It holds no content of the VM.
type Result struct {
	VM    string            `json:"vm"`
	Facts map[string]string `json:"facts"`
	Disks []hikae.Disk      `json:"disks"`
	Steps []Step            `json:"steps"`
	OK    bool              `json:"ok"` // no step failed
}

// Subject is the machine, and what its hypervisor knows of it.
type Subject struct {
	Provider hikae.SnapshotProvider
	ID       string // the provider's
	// Free looks, before anything is done, whether something stands in the way. Nil: nothing can.
	Free func(ctx context.Context) (detail string, err error)
	// More are steps of the hypervisor's own, after the comparison.
	More []Own
	// Clean drops the bases of points that are thrown away, and looks whether anything was left. It is called where Free was
	// called, whatever happened between. point is nil where none was made.
	Clean func(ctx context.Context, point *pipe.PointInfo) (detail string, err error)
}

// Own is a step of a hypervisor's own.
type Own struct {
	Name string
	Do   func(ctx context.Context) (detail string, err error)
}

// Options change how the test is run. Nil and zero fields are good defaults.
type Options struct {
	// Scratch is a folder for the repository and what is restored, which needs room for all data of the VM twice. Empty:
	// the system's temporary folder.
	Scratch string
	// Journal takes what is made before it happens.
	Journal hikae.Journal
	// Step, if set, is told of each step as it ends.
	Step func(Step)
}

// Run takes a machine through the test. What is wrong with the machine stands in the result; the error is for what kept
// the test itself from running to its end.
func Run(ctx context.Context, subject Subject, opts *Options) (Result, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Step == nil {
		o.Step = func(Step) {}
	}
	dir, err := os.MkdirTemp(o.Scratch, "hikae-selftest-")
	if err != nil {
		return Result{}, err
	}
	t := &test{Subject: subject, opts: o, dir: dir, res: Result{Facts: map[string]string{}}}
	t.run(ctx)
	return t.res, errors.Join(t.close(), os.RemoveAll(dir), ctx.Err())
}

// test is one run.
type test struct {
	Subject
	opts Options
	dir  string
	res  Result

	repo   *repo.Repository
	points []job.Result
	looked bool // whether something stands in the way
}

func (t *test) close() error {
	if t.repo == nil {
		return nil
	}
	return t.repo.Close()
}

func (t *test) run(ctx context.Context) {
	steps := []Own{
		{"find the VM", t.find}, {"nothing in the way", t.free}, {"room for the test", t.room},
		{"full backup", t.backup}, {"incremental backup", t.increment}, {"verify all data", t.verify},
		{"restore", t.restore}, {"compare with the VM", t.compare},
	}
	steps = append(steps, t.More...)
	t.res.OK = true
	for i, s := range append(steps, Own{"nothing left", t.clean}) {
		step := Step{Name: s.Name, Status: Skipped, Detail: "an earlier step failed"}
		if t.res.OK || i == len(steps) && t.looked {
			begun := time.Now()
			detail, err := s.Do(ctx)
			step = Step{Name: s.Name, Status: OK, Detail: detail, Seconds: time.Since(begun).Seconds()}
			var doubt *Doubt
			var untried *Untried
			switch {
			case errors.As(err, &untried):
				step.Status, step.Detail = Skipped, untried.Text
			case errors.As(err, &doubt):
				step.Status, step.Detail = Warned, doubt.Text
			case err != nil:
				step.Status, step.Detail, t.res.OK = Failed, err.Error(), false
			}
		}
		t.res.Steps = append(t.res.Steps, step)
		t.opts.Step(step)
	}
}

// Doubt is the error of a step that was done, with something that a person should know.
type Doubt struct{ Text string }

func (d *Doubt) Error() string { return d.Text }

// Doubtf makes one.
func Doubtf(format string, args ...any) error { return &Doubt{fmt.Sprintf(format, args...)} }

// Untried is the error of a step that cannot be tried here: nothing is wrong, and nothing was shown.
type Untried struct{ Text string }

func (u *Untried) Error() string { return u.Text }

// Untriedf makes one.
func Untriedf(format string, args ...any) error { return &Untried{fmt.Sprintf(format, args...)} }

func (t *test) find(ctx context.Context) (string, error) {
	for vm, err := range t.Provider.VMs(ctx) {
		if err != nil {
			return "", err
		}
		if vm.ID == t.ID {
			t.res.VM, t.res.Facts, t.res.Disks = vm.Name, vm.Facts, vm.Disks
		}
	}
	covered := 0
	for _, d := range t.res.Disks {
		if d.Skip == "" {
			covered++
		}
	}
	if covered == 0 {
		return "", errors.New("it has no disk that can be backed up")
	}
	text := fmt.Sprintf("%s, %d of %d disks can be backed up", t.res.Facts["hypervisor"], covered, len(t.res.Disks))
	if covered < len(t.res.Disks) {
		return "", Doubtf("%s", text)
	}
	return text, nil
}

// free looks whether something stands in the way.
func (t *test) free(ctx context.Context) (string, error) {
	t.looked = true
	if t.Free == nil {
		return "", nil
	}
	return t.Free(ctx)
}

func (t *test) room(context.Context) (string, error) {
	_, free, err := freespace.Of(t.dir)
	if err != nil {
		return "", err
	}
	need := uint64(0)
	for _, d := range t.res.Disks {
		need += 2 * uint64(d.Size)
	}
	text := fmt.Sprintf("%d MiB free in %s, at most %d MiB needed", free>>20, filepath.Dir(t.dir), need>>20)
	if free < need {
		return "", Doubtf("%s; it may be enough, as disks are seldom full", text)
	}
	return text, nil
}

func (t *test) backup(ctx context.Context) (string, error) {
	if t.repo == nil {
		st, err := dirstore.Init(filepath.Join(t.dir, "repo"))
		if err != nil {
			return "", err
		}
		t.repo, err = repo.Init(ctx, st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(t.dir, "state")})
		if err != nil {
			return "", err
		}
	}
	name := t.res.VM
	if name == "" {
		name = "selftest"
	}
	res, err := job.Backup(ctx, t.Provider, t.ID, t.repo, &job.BackupOptions{Name: name, Journal: t.opts.Journal})
	if err != nil {
		return "", err
	}
	t.points = append(t.points, res)
	read := int64(0)
	for _, d := range res.Disks {
		read += d.Read
	}
	text := fmt.Sprintf("%d MiB read in %.1f s, consistency %s", read>>20, res.Seconds, res.Consistency)
	if len(res.Warnings) > 0 {
		return "", Doubtf("%s; %s", text, res.Warnings[0])
	}
	return text, nil
}

// increment is a second backup, which must know what changed.
func (t *test) increment(ctx context.Context) (string, error) {
	text, err := t.backup(ctx)
	if n := len(t.points); err == nil && n == 2 && len(t.points[1].Fallbacks) > 0 {
		f := t.points[1].Fallbacks[0]
		return "", Doubtf("%s; disk %s was not incremental: %s", text, f.Disk, f.Reason)
	}
	return text, err
}

func (t *test) verify(ctx context.Context) (string, error) {
	report, err := t.repo.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	if err != nil {
		return "", err
	}
	if !report.OK {
		return "", fmt.Errorf("%d damaged objects", len(report.Damaged))
	}
	return "every block is whole", nil
}

func (t *test) last(ctx context.Context) (pipe.PointInfo, error) {
	return job.FindPoint(ctx, t.repo, t.points[len(t.points)-1].Point)
}

func (t *test) restore(ctx context.Context) (string, error) {
	point, err := t.last(ctx)
	if err != nil {
		return "", err
	}
	r, err := diskvm.NewRestorer(filepath.Join(t.dir, "restored")+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := job.Restore(ctx, t.repo, point, r, nil)
	return fmt.Sprintf("%d disks in %.1f s", len(res.Disks), res.Seconds), err
}

// clean drops the bases of the points that are thrown away, and looks whether anything is there that was not before.
func (t *test) clean(ctx context.Context) (string, error) {
	if t.Clean == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	if len(t.points) == 0 {
		return t.Clean(ctx, nil)
	}
	point, err := t.last(ctx)
	if err != nil {
		return "", err
	}
	return t.Clean(ctx, &point)
}
