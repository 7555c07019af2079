// Package selftest takes a virtual machine of vSphere through everything that Hikae does with one, without harm to it: see
// job/selftest. Beside what that does it takes a quiesced snapshot, reads the VM's disks by each transport by itself and compares
// what they give, and looks afterwards for anything that was left on the server.
//
// Reach for it where Hikae is new to a server, after a host was updated, and to send a result to whoever can help: so far Hikae has
// met only its own fake of vSphere.
//
// # What it does to the VM
//
// What two backups do, twice over: five snapshots at most, one after the other, each removed again. Where Options.VMware allow it,
// as they do by default, changed-block tracking is enabled, and stays so. The transport hotadd attaches the VM's disks, read-only,
// to the VM that the test runs in. Nothing is written to a disk.
//
// # What the result tells
//
// Products, releases and builds of server and host; kinds of datastores; the guest's system; sizes and UUIDs of disks; how each step
// and each transport went. Names of hosts, addresses and file names are left out unless Options.Names; that of the VM is told.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware"
)

// Options change how the test is run. Nil and zero fields are good defaults.
type Options struct {
	// VMware are the provider's. Transports that its order leaves out are not tried; NBD in the clear only where it is named.
	VMware *vmware.Options
	// Scratch is as in job/selftest; empty: the provider's scratch folder, else the system's temporary folder.
	Scratch string
	// Journal takes what is made before it happens.
	Journal hikae.Journal
	// Names says that the result may name hosts, addresses and files.
	Names bool
	// Step, if set, is told of each step as it ends.
	Step func(selftest.Step)
}

// Run takes a machine through the test. What is wrong with the machine stands in the result; the error is for what kept the test
// itself from running to its end.
func Run(ctx context.Context, c *vmware.Client, vm types.ManagedObjectReference, opts *Options) (selftest.Result, error) {
	t := &test{client: c, vm: vm, facts: map[string]string{}}
	if opts != nil {
		t.opts = *opts
	}
	if t.opts.VMware == nil {
		t.opts.VMware = &vmware.Options{}
	}
	if t.opts.Scratch == "" {
		t.opts.Scratch = t.opts.VMware.Scratch
	}
	var err error
	if t.provider, err = vmware.New(c, []types.ManagedObjectReference{vm}, t.opts.VMware); err != nil {
		return selftest.Result{}, err
	}
	if err := t.lookAround(ctx); err != nil && ctx.Err() != nil {
		return selftest.Result{}, err // of a VM that is not there the steps tell
	}
	step := t.opts.Step
	if step == nil {
		step = func(selftest.Step) {}
	}
	r, err := selftest.Run(ctx, selftest.Subject{Provider: t.provider, ID: vm.Value, Free: t.free, More: t.more(), Clean: t.clean},
		&selftest.Options{Scratch: t.opts.Scratch, Journal: t.opts.Journal, Step: func(s selftest.Step) { step(t.discreetStep(s)) }})
	return t.tell(r), err
}

// test is one run.
type test struct {
	client   *vmware.Client
	vm       types.ManagedObjectReference
	opts     Options
	provider *vmware.Provider

	facts  map[string]string
	secret []string // names that the result keeps to itself
	before state    // of the VM

	snap    hikae.Snapshot // that transports are tried on
	samples []*sample      // of its disks
}

// more are the steps after the comparison.
func (t *test) more() []selftest.Own {
	own := []selftest.Own{{Name: "changed-block tracking", Do: t.tracking}, {Name: "quiesced snapshot", Do: t.quiesced}, {Name: "plain snapshot", Do: t.plain}}
	for _, name := range transportsOf(t.opts.VMware.Transports) {
		own = append(own, selftest.Own{Name: "transport " + name, Do: func(ctx context.Context) (string, error) { return t.transport(ctx, name) }})
	}
	return own
}

// free looks what would stop or weaken a backup.
func (t *test) free(ctx context.Context) (string, error) {
	opts := &vmware.PreflightOptions{Quiesce: t.opts.VMware.Quiesce, KeepTracking: t.opts.VMware.KeepTracking}
	p, err := t.client.Preflight(ctx, t.vm, opts)
	if err != nil {
		return "", err
	}
	if err := p.Err(); err != nil {
		return "", err
	}
	t.facts["tracking before"] = string(p.Tracking)
	weak := ""
	for _, f := range p.Findings {
		if f.Severity == vmware.Weak {
			weak += "; " + f.Object + ": " + f.What
		}
	}
	if weak != "" {
		return "", selftest.Doubtf("%s", weak[2:])
	}
	return "tracking of changes: " + string(p.Tracking), nil
}

// tracking says what the backups have made of it.
func (t *test) tracking(ctx context.Context) (string, error) {
	now, err := t.look(ctx)
	if err != nil {
		return "", err
	}
	t.facts["tracking after"] = onOff(now.tracked)
	switch {
	case now.tracked && !t.before.tracked:
		return "it was off, is on now, and stays so", nil
	case now.tracked:
		return "on, as it was", nil
	}
	return "", selftest.Doubtf("off: every backup reads the disks whole")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// clean looks whether anything is there that was not before.
func (t *test) clean(ctx context.Context, _ *pipe.PointInfo) (string, error) {
	if err := t.release(ctx); err != nil {
		return "", err
	}
	now, err := t.look(ctx)
	if err != nil {
		return "", fmt.Errorf("whether anything was left is not known: %w", err)
	}
	if left := now.leftSince(t.before); len(left) > 0 {
		return "", errors.New(left[0])
	}
	return "no snapshot, disabled method, or disk that needs consolidation", nil
}

// release removes the snapshot that transports were tried on.
func (t *test) release(ctx context.Context) error {
	if t.snap == nil {
		return nil
	}
	err := t.snap.Release(ctx)
	if err == nil {
		t.snap = nil
	}
	return err
}

// transportsOf are the transports to try, in the order in which a backup does.
func transportsOf(o *vmware.TransportOptions) []string {
	order := []string{vmware.HotAdd, vmware.NBDSSL, vmware.NFS, vmware.VDDK, vmware.HTTPS, vmware.Export}
	if o == nil {
		return order
	}
	var named []string
	for _, name := range o.Order {
		if name != "" && name[0] != '!' {
			named = append(named, name)
		}
	}
	if len(named) > 0 {
		order = named
	}
	return slices.DeleteFunc(order, func(name string) bool { return slices.Contains(o.Order, "!"+name) })
}
