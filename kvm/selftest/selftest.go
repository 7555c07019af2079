// Package selftest takes a VM of QEMU/KVM through everything that Hikae does with one, without harm to it: it is backed up
// into a repository that is thrown away, twice, verified, restored to scratch and compared; and nothing is left in it.
//
// Reach for it on a host where Hikae is new, or after QEMU was changed, and to send a result to whoever can help. It is
// the one place where the driver, sessions and a repository meet outside of a program.
//
// # What it does to the VM
//
// What two backups do: file systems are frozen for some tenths of a second where there is a guest agent, and what the
// guest overwrites meanwhile is copied to the scratch folder. Bitmaps of the VM's real backups are not touched.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/kvm"
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
	Skipped Status = "skipped" // an earlier step failed
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

// Options change how the test is run. Nil and zero fields are good defaults.
type Options struct {
	// KVM are the provider's.
	KVM *kvm.Options
	// Scratch is a folder for the repository and what is restored, which needs room for all data of the VM twice. Empty:
	// the provider's scratch folder, else the system's temporary folder.
	Scratch string
	// Journal takes what is made before it happens.
	Journal hikae.Journal
	// Step, if set, is told of each step as it ends.
	Step func(Step)
}

// Run takes a machine through the test. What is wrong with the machine stands in the result; the error is for what kept
// the test itself from running to its end.
func Run(ctx context.Context, m kvm.Machine, opts *Options) (Result, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.KVM == nil {
		o.KVM = &kvm.Options{}
	}
	if o.Scratch == "" {
		o.Scratch = o.KVM.Scratch
	}
	if o.Step == nil {
		o.Step = func(Step) {}
	}
	dir, err := os.MkdirTemp(o.Scratch, "hikae-selftest-")
	if err != nil {
		return Result{}, err
	}
	t := &test{opts: o, machine: m, provider: kvm.New([]kvm.Machine{m}, o.KVM), dir: dir, res: Result{Facts: map[string]string{}}}
	t.run(ctx)
	return t.res, errors.Join(t.close(), os.RemoveAll(dir), ctx.Err())
}

// test is one run.
type test struct {
	opts     Options
	machine  kvm.Machine
	provider *kvm.Provider
	dir      string
	res      Result

	repo   *repo.Repository
	points []job.Result
	before []kvm.Leftover // what bore our mark before
}

func (t *test) close() error {
	if t.repo == nil {
		return nil
	}
	return t.repo.Close()
}

func (t *test) run(ctx context.Context) {
	steps := []struct {
		name   string
		do     func(context.Context) (string, error)
		always bool
	}{
		{"find the VM", t.find, false}, {"nothing in the way", t.free, false}, {"room for the test", t.room, false},
		{"full backup", t.backup, false}, {"incremental backup", t.increment, false}, {"verify all data", t.verify, false},
		{"restore", t.restore, false}, {"compare with the VM", t.compare, false},
		{"nothing left", t.clean, true},
	}
	t.res.OK = true
	for _, s := range steps {
		step := Step{Name: s.name, Status: Skipped, Detail: "an earlier step failed"}
		if t.res.OK || s.always && t.before != nil {
			begun := time.Now()
			detail, err := s.do(ctx)
			step = Step{Name: s.name, Status: OK, Detail: detail, Seconds: time.Since(begun).Seconds()}
			var doubt *doubt
			switch {
			case errors.As(err, &doubt):
				step.Status, step.Detail = Warned, doubt.text
			case err != nil:
				step.Status, step.Detail, t.res.OK = Failed, err.Error(), false
			}
		}
		t.res.Steps = append(t.res.Steps, step)
		t.opts.Step(step)
	}
}

// doubt is a step that was done, with something that a person should know.
type doubt struct{ text string }

func (d *doubt) Error() string { return d.text }

func doubtf(format string, args ...any) error { return &doubt{fmt.Sprintf(format, args...)} }

func (t *test) find(ctx context.Context) (string, error) {
	for vm, err := range t.provider.VMs(ctx) {
		if err != nil {
			return "", err
		}
		t.res.VM, t.res.Facts, t.res.Disks = vm.Name, vm.Facts, vm.Disks
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
		return "", doubtf("%s", text)
	}
	return text, nil
}

// free looks whether another session is at work, and whether the agent answers.
func (t *test) free(ctx context.Context) (string, error) {
	list, err := t.provider.Leftovers(ctx, t.machine.QMP)
	if err != nil {
		return "", err
	}
	t.before = append([]kvm.Leftover{}, list...)
	for _, l := range list {
		if l.Kind != "bitmap" {
			return "", fmt.Errorf("%s %s is there: a session is at work, or was killed; `hikae kvm sweep` removes what is left of one", l.Kind, l.Name)
		}
	}
	if t.machine.Agent == "" {
		return "", doubtf("the monitor is free; no guest agent was named, so backups are what a power cut would leave")
	}
	return "the monitor is free", nil
}

func (t *test) room(context.Context) (string, error) {
	free, err := kvm.FreeBytes(t.dir)
	if err != nil {
		return "", err
	}
	need := int64(0)
	for _, d := range t.res.Disks {
		need += 2 * d.Size
	}
	text := fmt.Sprintf("%d MiB free in %s, at most %d MiB needed", free>>20, filepath.Dir(t.dir), need>>20)
	if free < need {
		return "", doubtf("%s; it may be enough, as disks are seldom full", text)
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
	res, err := job.Backup(ctx, t.provider, t.machine.QMP, t.repo, &job.BackupOptions{Name: name, Journal: t.opts.Journal})
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
		return "", doubtf("%s; %s", text, res.Warnings[0])
	}
	return text, nil
}

// increment is a second backup, which must know what changed.
func (t *test) increment(ctx context.Context) (string, error) {
	text, err := t.backup(ctx)
	if n := len(t.points); err == nil && n == 2 && len(t.points[1].Fallbacks) > 0 {
		f := t.points[1].Fallbacks[0]
		return "", doubtf("%s; disk %s was not incremental: %s", text, f.Disk, f.Reason)
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
