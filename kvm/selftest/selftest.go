// Package selftest takes a VM of QEMU/KVM through everything that Hikae does with one, without harm to it: see
// job/selftest. Beside what that does it looks for a session that is at work, and afterwards for anything that was left in
// QEMU.
//
// Reach for it on a host where Hikae is new, or after QEMU was changed, and to send a result to whoever can help.
//
// # What it does to the VM
//
// What two backups do: file systems are frozen for some tenths of a second where there is a guest agent, and what the
// guest overwrites meanwhile is copied to the scratch folder. Bitmaps of the VM's real backups are not touched.
package selftest

import (
	"context"
	"fmt"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
)

// Options change how the test is run. Nil and zero fields are good defaults.
type Options struct {
	// KVM are the provider's.
	KVM *kvm.Options
	// Scratch is as in job/selftest; empty: the provider's scratch folder, else the system's temporary folder.
	Scratch string
	// Journal takes what is made before it happens.
	Journal hikae.Journal
	// Step, if set, is told of each step as it ends.
	Step func(selftest.Step)
}

// Run takes a machine through the test. What is wrong with the machine stands in the result; the error is for what kept
// the test itself from running to its end.
func Run(ctx context.Context, m kvm.Machine, opts *Options) (selftest.Result, error) {
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
	t := &test{machine: m, provider: kvm.New([]kvm.Machine{m}, o.KVM)}
	return selftest.Run(ctx, selftest.Subject{Provider: t.provider, ID: m.QMP, Free: t.free, Clean: t.clean},
		&selftest.Options{Scratch: o.Scratch, Journal: o.Journal, Step: o.Step})
}

// test is one run.
type test struct {
	machine  kvm.Machine
	provider *kvm.Provider
	before   []kvm.Leftover // what bore our mark before
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
		return "", selftest.Doubtf("the monitor is free; no guest agent was named, so backups are what a power cut would leave")
	}
	return "the monitor is free", nil
}

// clean drops the bitmaps of the points that are thrown away, and looks whether anything is there that was not before.
func (t *test) clean(ctx context.Context, point *pipe.PointInfo) (string, error) {
	if point != nil {
		ids := map[hikae.ChangeID]bool{}
		for _, id := range point.Tracking {
			ids[hikae.ChangeID(id)] = true
		}
		if err := t.provider.Forget(ctx, t.machine.QMP, ids); err != nil {
			return "", err
		}
	}
	list, err := t.provider.Leftovers(ctx, t.machine.QMP)
	if err != nil {
		return "", err
	}
	before := map[string]bool{}
	for _, l := range t.before {
		before[l.Kind+l.Name+l.On] = true
	}
	for _, l := range list {
		if !before[l.Kind+l.Name+l.On] {
			return "", fmt.Errorf("%s %s was left", l.Kind, l.Name)
		}
	}
	return "no bitmap, export, node, socket or frozen file system", nil
}
