package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
)

// toKVM reports whether a VM of QEMU is to be made, or written over.
func (f *restoreFlags) toKVM() bool { return isKVM(f.to) }

// kvmRestorer restores to a kvm:// URL: with --in-place to the VM whose monitor it names, else to a new folder. Where the
// URL does not say which images the VM has, it has those that it had when the point was made.
func (f *restoreFlags) kvmRestorer(ctx context.Context, r *opened, point pipe.PointInfo) (hikae.Restorer, string, error) {
	if !f.inPlace {
		folder, err := f.kvmFolder()
		if err != nil {
			return nil, "", err
		}
		return kvm.NewRestorer(&kvm.RestorerOptions{Folder: folder, Format: f.format}), "", nil
	}
	machines, opts, err := kvmMachines(ctx, f.to)
	if err != nil {
		return nil, "", err
	}
	if len(machines) != 1 {
		return nil, "", outcome.Usage("Name it by &vm=.", "--in-place writes over one VM, and %d are meant", len(machines))
	}
	machine := machines[0]
	if f.format != "" {
		return nil, "", outcome.Usage("", "--format is for new files; --in-place keeps the VM's")
	}
	if machine.Name == "" {
		machine.Name = point.VM
	}
	if len(machine.Disks) == 0 {
		if machine.Disks, err = recordedDisks(ctx, r, point); err != nil {
			return nil, "", err
		}
	}
	return kvm.NewRestorer(&kvm.RestorerOptions{Machines: []kvm.Machine{machine}, Scratch: opts.Scratch}), machine.ID(), nil
}

// kvmFolder is the folder of a new VM.
func (f *restoreFlags) kvmFolder() (string, error) {
	u, err := url.Parse(f.to)
	if err != nil || u.Host != "" || u.RawQuery != "" || !strings.HasSuffix(u.Path, "/") || len(u.Path) < 2 {
		return "", outcome.Usage("For instance --to kvm:///vm/web1-restored/; or with --in-place, the URL of a VM that is off.",
			"--to %s: a new VM goes into a folder", f.to)
	}
	return u.Path, nil
}

func recordedDisks(ctx context.Context, r *opened, point pipe.PointInfo) ([]kvm.DiskImage, error) {
	config, err := job.PointConfig(ctx, r, point)
	if err != nil {
		return nil, err
	}
	disks, err := kvm.RecordedDisks(config)
	if err != nil {
		return nil, err
	}
	if len(disks) == 0 {
		return nil, outcome.Usage("Add &disk=KEY=FILE to the URL for each of its disks.",
			"the VM is off, and point %s does not tell in which files its disks are", point.ID)
	}
	return disks, nil
}

// offline is a VM that was found to be off.
type offline struct {
	machine kvm.Machine
	opts    *kvm.Options
	err     error // what its monitor said
}

// provider makes a provider of a VM that is off. What its monitor cannot be asked for is as in the VM's newest point.
func (o *offline) provider(ctx context.Context, r *opened) (hikae.SnapshotProvider, string, error) {
	if o.machine.Name == "" && len(o.machine.Disks) > 0 {
		return nil, "", outcome.Usage("Add &name=web1 to the URL, or --name web1.", "the VM at %s is off, and cannot tell its name", o.machine.ID())
	}
	point, err := newest(ctx, r, o.machine.Name)
	if err != nil {
		return nil, "", err
	}
	if point == nil && len(o.machine.Disks) == 0 {
		return nil, "", &outcome.Error{Object: o.machine.ID(), Text: "VM at " + o.machine.ID(), Err: o.err,
			Hint: "Nobody listens there. If the VM is off, add &name= and &disk=KEY=FILE for each of its disks."}
	}
	note := "the VM is off: its images were read"
	if point != nil {
		config, err := job.PointConfig(ctx, r, *point)
		if err != nil {
			return nil, "", err
		}
		o.machine.Config = config
		if len(o.machine.Disks) == 0 {
			if o.machine.Disks, err = recordedDisks(ctx, r, *point); err != nil {
				return nil, "", err
			}
		}
		note = fmt.Sprintf("the VM is off: its images were read; its configuration is that of point %s", point.ID)
	}
	return kvm.New([]kvm.Machine{o.machine}, o.opts), note, nil
}

// newest is the newest point of a VM, nil where there is none.
func newest(ctx context.Context, r *opened, vm string) (*pipe.PointInfo, error) {
	if vm == "" {
		return nil, nil
	}
	p, err := r.Resolve(ctx, vm+"@latest")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &p, nil
}
