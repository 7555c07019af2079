package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/repo"
)

const kvmScheme = "kvm://"

// kvmProvider makes a VM of a kvm:// URL. Where no name is given, it is the one that QEMU was started with.
func (f *backupFlags) kvmProvider(ctx context.Context, source string) (hikae.SnapshotProvider, error) {
	if len(f.changed) > 0 || f.forceLive {
		return nil, outcome.Usage("A running VM knows itself what changed, and is read at one moment.",
			"--changed and --force-live are for disk image files")
	}
	machine, opts, err := kvm.ParseURL(source)
	if err != nil {
		return nil, outcome.Usage("For instance kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1.", "%v", err)
	}
	if f.name != "" {
		machine.Name = f.name
	}
	if self, err := os.Executable(); err == nil {
		opts.Guard = kvm.ProcessGuard(self, guardName)
	}
	provider := kvm.New([]kvm.Machine{machine}, opts)
	for vm, err := range provider.VMs(ctx) {
		if err != nil {
			return nil, &outcome.Error{Object: machine.QMP, Text: "VM at " + machine.QMP, Err: err,
				Hint: "The path is that of the monitor's socket: qemu-system-x86_64 -qmp unix:PATH,server=on,wait=off."}
		}
		f.name = vm.Name
	}
	if f.name == "" {
		return nil, outcome.Usage("Add &name=web1 to the URL, or --name web1.", "the VM at %s has no name", machine.QMP)
	}
	return provider, nil
}

const guardName = "kvm-guard"

// guardCommand is the process that thaws a guest if the one that froze it is killed. Nobody calls it by hand.
func (t *tool) guardCommand() *cobra.Command {
	cmd := &cobra.Command{Use: guardName + " SOCKET", Short: "Thaw a guest when the process that froze it is gone", Hidden: true, Args: want("SOCKET")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t.acting = true
		return kvm.RunGuard(cmd.Context(), args[0], t.stdin, t.stdout)
	}
	return cmd
}

// kvmSweeper takes back what a killed backup left in a QEMU. It asks for the points only when there is something.
type kvmSweeper struct{ repo *repo.Repository }

func (s kvmSweeper) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	keep, err := job.KeepIDs(ctx, s.repo)
	if err != nil {
		return err
	}
	return kvm.New(nil, nil).Undo(ctx, e, keep)
}
