package main

import (
	"context"
	"iter"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm"
)

// Schemes of URLs that are running VMs.
const (
	kvmScheme     = "kvm://"
	libvirtScheme = "kvm+libvirt://"
)

func isKVM(source string) bool {
	return strings.HasPrefix(source, kvmScheme) || strings.HasPrefix(source, libvirtScheme)
}

// kvmProvider makes VMs of a URL. Where no name is given, it is the one that QEMU or libvirt knows.
func (f *backupFlags) kvmProvider(ctx context.Context, source string) (hikae.SnapshotProvider, error) {
	if len(f.changed) > 0 || f.forceLive {
		return nil, outcome.Usage("A running VM knows itself what changed, and is read at one moment.",
			"--changed and --force-live are for disk image files")
	}
	machines, opts, err := kvmMachines(ctx, source)
	if err != nil {
		return nil, err
	}
	if len(machines) > 1 && (f.name != "" || f.base != "") {
		return nil, outcome.Usage("Name one VM by &vm=.", "--name and --base are for one VM, and %d are meant", len(machines))
	}
	if f.name != "" {
		if given := machines[0].Name; machines[0].Domain == nil && given != "" && given != f.name {
			return nil, outcome.Usage("Under another name it would be another VM in the repository: give one of them.", "--name %s, and name=%s in the URL", f.name, given)
		}
		machines[0].Name = f.name
	}
	if self, err := os.Executable(); err == nil {
		opts.Guard = kvm.ProcessGuard(self, guardName)
	}
	provider := kvm.New(machines, opts)
	if len(machines) > 1 { // each is asked in its turn: one that cannot be is no reason to leave the others
		for _, m := range machines {
			f.several = append(f.several, vmOf{id: m.ID(), name: m.Name})
		}
		return oneByOne{machines, opts}, nil
	}
	for vm, err := range provider.VMs(ctx) {
		// What a VM that is off cannot tell, its images or its configuration, may be known to the repository.
		if machines[0].Domain == nil && (kvm.IsOff(err) || err == nil && vm.Facts["status"] == "off") {
			f.off = &offline{machine: machines[0], opts: opts, err: err}
			f.name = machines[0].Name
			return provider, nil
		}
		if err != nil {
			return nil, &outcome.Error{Object: machines[0].ID(), Text: "VM at " + machines[0].ID(), Err: err, Hint: reachHint(machines[0])}
		}
		f.name = vm.Name
	}
	if f.name == "" {
		return nil, outcome.Usage("Add &name=web1 to the URL, or --name web1.", "the VM at %s has no name", machines[0].ID())
	}
	return provider, nil
}

// kvmMachines are the machines that a URL means.
func kvmMachines(ctx context.Context, source string) ([]kvm.Machine, *kvm.Options, error) {
	if strings.HasPrefix(source, kvmScheme) {
		machine, opts, err := kvm.ParseURL(source)
		if err != nil {
			return nil, nil, outcome.Usage("For instance kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1.", "%v", err)
		}
		return []kvm.Machine{machine}, opts, nil
	}
	host, opts, err := kvm.ParseHostURL(source)
	if err != nil {
		return nil, nil, outcome.Usage("For instance kvm+libvirt:///system?vm=web1.", "%v", err)
	}
	machines, err := host.Machines(ctx)
	if err != nil {
		return nil, nil, &outcome.Error{Object: source, Text: "VMs of " + host.URI, Err: err,
			Hint: "`virsh -c " + host.URI + " list --all` shows what there is. libvirt's socket lets in root, and whom polkit allows org.libvirt.unix.manage."}
	}
	if len(machines) == 0 {
		return nil, nil, &outcome.Error{Kind: outcome.KindNotFound, Object: source, Text: "no VM of " + host.URI + " is running"}
	}
	return machines, opts, nil
}

func reachHint(m kvm.Machine) string {
	if m.Domain != nil {
		return "Start it with virsh start, and see that `virsh qemu-monitor-command` may be used on it."
	}
	return "The path is that of the monitor's socket: qemu-system-x86_64 -qmp unix:PATH,server=on,wait=off."
}

// vmOf is one of several VMs of a command.
type vmOf struct {
	id, name string
	err      error // it cannot be backed up: a host that has VMs, and does not answer
}

// oneByOne is a provider of several machines that are not all asked where one is meant.
type oneByOne struct {
	machines []kvm.Machine
	opts     *kvm.Options
}

func (o oneByOne) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return kvm.New(o.machines, o.opts).VMs(ctx)
}

func (o oneByOne) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	return kvm.New(o.machines, o.opts).Snapshot(ctx, id, opts)
}

// only is the provider of one machine.
func (o oneByOne) only(id string) hikae.SnapshotProvider {
	for _, m := range o.machines {
		if m.ID() == id {
			return kvm.New([]kvm.Machine{m}, o.opts)
		}
	}
	return o
}

const guardName = "kvm-guard"

// guardCommand is the process that looks after a guest if the one that froze it is killed. Nobody calls it by hand.
func (t *tool) guardCommand() *cobra.Command {
	cmd := &cobra.Command{Use: guardName + " CHARGE", Short: "Look after a guest when the process that worked on it is gone", Hidden: true, Args: want("CHARGE")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t.acting = true
		return kvm.RunGuard(cmd.Context(), args[0], t.stdin, t.stdout)
	}
	return cmd
}

// kvmSweeper takes back what a killed backup left in a QEMU. It asks for the points only when there is something.
type kvmSweeper struct{ repo *opened }

func (s kvmSweeper) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	keep, err := job.KeepIDs(ctx, s.repo)
	if err != nil {
		return err
	}
	return kvm.New(nil, nil).Undo(ctx, e, keep)
}
