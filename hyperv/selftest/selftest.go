// Package selftest takes a virtual machine of Hyper-V through everything that Hikae does with one, without harm to it: see
// job/selftest. Beside what that does it tells the plan with its reasons, takes a quiesced backup's snapshot, and looks afterwards
// whether anything was left with the VM.
//
// Reach for it where Hikae is new to a host, after one was updated, and to send a result to whoever can help: so far Hikae has met
// only its own fake of Hyper-V.
//
// # What it does to the VM
//
// What two backups do, and two snapshots more, one after the other, each removed again. Where changes are tracked, reference points are
// made, and those of the test are removed at its end; so the next real backup rests on its own as before. Nothing is written to a disk.
//
// # What the result tells
//
// Releases and builds, the VM's generation and configuration version, the plan, sizes and ids of disks, how each step went. Names
// of hosts, addresses and file names are left out unless Options.Names; that of the VM is told.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/pipe"
)

// Options change how the test is run. Nil and zero fields are good defaults.
type Options struct {
	// HyperV are the provider's.
	HyperV *hyperv.ProviderOptions
	// Scratch is as in job/selftest.
	Scratch string
	// Journal takes what is made before it happens. Nil: one that lasts as long as the test.
	Journal hikae.Journal
	// Names says that the result may name hosts, addresses and files.
	Names bool
	// Step, if set, is told of each step as it ends.
	Step func(selftest.Step)
}

// Run takes a machine, by its GUID, through the test. What is wrong with the machine stands in the result; the error is for what
// kept the test itself from running to its end.
func Run(ctx context.Context, s *hyperv.Site, vm string, opts *Options) (selftest.Result, error) {
	t := &test{site: s, vm: vm, facts: map[string]string{}}
	if opts != nil {
		t.opts = *opts
	}
	if t.opts.HyperV == nil {
		t.opts.HyperV = &hyperv.ProviderOptions{}
	}
	var err error
	if t.provider, err = hyperv.New(s, []string{vm}, t.opts.HyperV); err != nil {
		return selftest.Result{}, err
	}
	if t.before, err = t.look(ctx); err != nil && ctx.Err() != nil {
		return selftest.Result{}, err // of a VM that is not there the steps tell
	}
	step := t.opts.Step
	if step == nil {
		step = func(selftest.Step) {}
	}
	r, err := selftest.Run(ctx, selftest.Subject{Provider: t.provider, ID: strings.ToLower(vm), Free: t.free, Clean: t.clean,
		More: []selftest.Own{{Name: "quiesced snapshot", Do: t.quiesced}, {Name: "plain snapshot", Do: t.plain}}},
		&selftest.Options{Scratch: t.opts.Scratch, Journal: t.opts.Journal, Step: func(s selftest.Step) { step(t.discreetStep(s)) }})
	return t.tell(r), err
}

// test is one run.
type test struct {
	site     *hyperv.Site
	vm       string
	opts     Options
	provider *hyperv.Provider

	facts  map[string]string
	secret []string // names that the result keeps to itself
	before state    // of the VM
	snap   hikae.Snapshot
}

// free looks how the VM would be backed up, and what would stop or weaken that.
func (t *test) free(ctx context.Context) (string, error) {
	p, err := t.provider.Preflight(ctx, t.vm)
	if err != nil {
		return "", err
	}
	t.secret = append(t.secret, p.Host)
	for _, d := range p.Disks {
		t.secret = append(t.secret, d.File)
	}
	if err := p.Err(); err != nil {
		return "", err
	}
	t.facts["procedure"], t.facts["mode"] = string(p.Plan.Procedure), string(p.Plan.Mode)
	var why []string
	for _, r := range p.Plan.Reasons {
		why = append(why, r.String())
	}
	t.facts["reasons"] = strings.Join(why, "; ")
	text := fmt.Sprintf("procedure %s, %s", p.Plan.Procedure, p.Plan.Mode)
	weak := ""
	for _, f := range p.Findings {
		if f.Severity == hyperv.Weak {
			weak += "; " + f.What
		}
	}
	if weak != "" {
		return "", selftest.Doubtf("%s%s", text, weak)
	}
	return text, nil
}

// quiesced takes a snapshot with the guest quiet, where that is allowed, and removes it.
func (t *test) quiesced(ctx context.Context) (string, error) {
	switch {
	case t.opts.HyperV.Quiesce == hyperv.NoQuiesce:
		return "", selftest.Untriedf("it was said that the guest is left alone")
	case t.before.state != hyperv.Running:
		return "", selftest.Untriedf("the VM is %s", t.before.state)
	}
	text, err := t.snapshot(ctx, hyperv.RequireQuiesce)
	if err != nil && t.snap == nil && ctx.Err() == nil {
		return "", selftest.Doubtf("no quiesced snapshot can be had: %v", err)
	}
	return text, err
}

// plain takes a snapshot with the guest left alone.
func (t *test) plain(ctx context.Context) (string, error) { return t.snapshot(ctx, hyperv.NoQuiesce) }

// snapshot takes one by a policy of quiescing, looks at the disks, and removes it.
func (t *test) snapshot(ctx context.Context, quiesce hyperv.Quiesce) (string, error) {
	o := *t.opts.HyperV
	o.Quiesce, o.NoTracking, o.Full = quiesce, true, false
	p, err := hyperv.New(t.site, []string{t.vm}, &o)
	if err != nil {
		return "", err
	}
	begun := time.Now()
	if t.snap, err = p.Snapshot(ctx, t.vm, &hikae.SnapshotOptions{Journal: t.opts.Journal}); err != nil {
		t.snap = nil
		return "", err
	}
	taken := time.Since(begun)
	level := t.snap.Consistency().String()
	if quiesce == hyperv.RequireQuiesce {
		t.facts["quiesced"] = level
	}
	read := t.firstMegabyte(ctx)
	begun = time.Now()
	err = errors.Join(read, t.release(ctx))
	return fmt.Sprintf("consistency %s; taken in %.1f s, removed in %.1f s", level, taken.Seconds(), time.Since(begun).Seconds()), err
}

// firstMegabyte reads the beginning of each disk of the snapshot.
func (t *test) firstMegabyte(ctx context.Context) error {
	for _, d := range t.snap.VM().Disks {
		if d.Skip != "" {
			continue
		}
		img, err := t.snap.OpenDisk(ctx, d.Key)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		_, err = img.ReadAt(ctx, make([]byte, min(1<<20, img.Size())), 0)
		if err = errors.Join(err, img.Close()); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

const releaseLimit = 10 * time.Minute

// release removes the snapshot, also when ctx has ended.
func (t *test) release(ctx context.Context) error {
	if t.snap == nil {
		return nil
	}
	host, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	err := t.snap.Release(host)
	if err == nil {
		t.snap = nil
	}
	return errors.Join(err, ctx.Err())
}

// clean drops what the test's points rested on, and looks whether anything is there that was not before.
func (t *test) clean(ctx context.Context, point *pipe.PointInfo) (string, error) {
	if err := t.release(ctx); err != nil {
		return "", err
	}
	if point != nil {
		if err := t.drop(ctx, point); err != nil {
			return "", err
		}
	}
	now, err := t.look(ctx)
	if err != nil {
		return "", fmt.Errorf("whether anything was left is not known: %w", err)
	}
	if left := now.leftSince(t.before); left != "" {
		return "", errors.New(left)
	}
	return "no disk stands on another file than before", nil
}
