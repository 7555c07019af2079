package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/job/replica/kvmsite"
)

// replicaFailoverFlags are from which point a replica is started, and what becomes of its VM.
type replicaFailoverFlags struct {
	replicaSyncFlags
	vm      sourceFlags
	planned bool
	force   bool
	deep    bool
	point   string
	monitor string
	answer  time.Duration
}

func (t *tool) replicaFailoverCommand() *cobra.Command {
	f := &replicaFailoverFlags{}
	cmd := &cobra.Command{
		Use:   "failover SITE VM [--planned --source SOURCE --source-start PROGRAM] [--force] [-- COMMAND ARG…]",
		Short: "Start a VM's replica in its place",
		Long: text(`
Start the replica of a VM. What it writes goes into files of its own over the newest point, or the one that --point names; the points
stay as they are.

With --planned the VM moves, and nothing is lost: a point is made while it runs; it is stopped, by its monitor's power button or
--source-stop; a last point is made of it while it is off; then the replica starts. Where anything fails before that, --source-start
starts the VM again.

Without --planned what the VM wrote since the point is lost: the result says how long that is. Two of a VM must not run at once: they
answer to one name, and what they write cannot be joined again. So it is refused unless --source or --source-state tells that the VM is
off. That nobody answers proves nothing: whoever knows that it does not run says so by --force. Points that are damaged are passed over,
with a warning.

COMMAND starts the replica; in its arguments {disks}, {disk:KEY} and {monitor} are filled in, as hikae kvm start has it. What it prints
goes to vm.log in the VM's folder of the site. Without COMMAND nothing is started: the result has the files and the options for QEMU.

If it is killed, the same command again goes on.`),
		Example: example(`
hikae replica failover /srv/replicas web1 --force -- qemu-system-x86_64 -M q35 -accel kvm -m 2G {disks}
hikae replica failover /srv/replicas web1 --planned --source 'kvm:///run/web1.qmp?name=web1' --source-start /etc/vm/start-web1 -- /etc/vm/start-replica {disk:vda} {monitor}
hikae replica failover /srv/replicas web1 --point 3fa81c --source 'kvm:///run/web1.qmp?name=web1' --json`),
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				args = args[:n]
			}
			return want("SITE", "VM")(cmd, args)
		},
	}
	f.access = &access{variable: "HIKAE_PASSWORD"}
	flags := cmd.Flags()
	flags.BoolVar(&f.planned, "planned", false, "stop the VM, and lose nothing")
	flags.StringArrayVar(&f.vm.urls, "source", nil, "`SOURCE`: the VM, as hikae backup takes it; may repeat for disk files")
	f.vm.flags(cmd)
	flags.BoolVar(&f.force, "force", false, "the VM does not run, or a second one is worth it")
	flags.StringVar(&f.point, "point", "", "start from this `POINT` (default: the newest that is right)")
	flags.BoolVar(&f.deep, "deep", false, "read all of the point before, and compare it with its sums")
	flags.StringVar(&f.monitor, "monitor", "", "`PATH` of the replica's monitor (default: in the VM's folder of the site)")
	flags.DurationVar(&f.answer, "answer", 2*time.Minute, "how long COMMAND may take until the replica's monitor answers")
	f.guest.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("planned", "force")
	cmd.MarkFlagsMutuallyExclusive("planned", "point")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaFailover(ctx, f, args[0], args[1], args[2:])
	})
	return cmd
}

func (t *tool) replicaFailover(ctx context.Context, f *replicaFailoverFlags, dir, vm string, command []string) (_ *reply, err error) {
	machine, err := f.vm.machine(vm)
	if err != nil {
		return nil, err
	}
	if f.answer < time.Second || f.answer > 24*time.Hour {
		return nil, outcome.Usage("Write it as 90s or 5m.", "--answer %v: a second at least, a day at most", f.answer)
	}
	if f.planned {
		if err := f.vm.bothWays(machine); err != nil {
			return nil, err
		}
		if len(f.vm.urls) == 0 {
			return nil, outcome.Usage("The last point is read from it: --source 'kvm:///run/web1.qmp?name=web1'.", "--source is missing")
		}
	}
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	site.Options.Monitor, site.Options.Deep, site.Options.Within = f.monitor, f.deep, f.answer
	if len(command) > 0 {
		site.Options.Command = command
	}
	rep := site.of(t, vm, 0)
	if f.planned {
		from, err := f.mover(t, site, vm)
		if err != nil {
			return nil, err
		}
		res, err := rep.PlannedFailover(ctx, from, machine)
		return site.replied(res, err, site.runs(ctx, vm))
	}
	if err := site.known(ctx, vm); err != nil {
		return nil, err
	}
	opts := &replica.FailoverOptions{Force: f.force}
	if machine != nil {
		opts.Source = machine
	}
	if f.point != "" {
		p, err := job.FindPoint(ctx, site.place, f.point)
		if err == nil && p.VM != vm {
			err = outcome.Usage("", "--point %s is a point of %s, not of %s", f.point, p.VM, vm)
		}
		if err != nil {
			return nil, &outcome.Error{Object: f.point, Text: "point " + f.point, Err: err, Hint: "`hikae replica list " + dir + " --json` lists the points."}
		}
		opts.Point = p.ID
	}
	res, err := rep.Failover(ctx, opts)
	return site.replied(res, err, site.runs(ctx, vm))
}

// mover reads the VM that is moved. Its name is given: it may be off already, by an earlier call.
func (f *replicaFailoverFlags) mover(t *tool, site *replicaSite, vm string) (*directSource, error) {
	s := &directSource{t: t, flags: f.backupFlags, site: site, sources: f.vm.urls, vm: vm}
	if len(s.sources) == 1 && isFarSource(s.sources[0]) {
		return nil, outcome.Usage("Name the VM itself.", "a source behind a mover cannot be read into a replica")
	}
	s.flags.name = vm
	return s, nil
}

// replicaUndoFlags are what stops the replica, and what starts the VM.
type replicaUndoFlags struct {
	vm   sourceFlags
	stop bool
}

func (t *tool) replicaUndoCommand() *cobra.Command {
	f := &replicaUndoFlags{}
	cmd := &cobra.Command{
		Use:   "undo SITE VM [--stop] [--source-start PROGRAM]",
		Short: "Throw away what a replica wrote, and make it a replica again",
		Long: text(`
End a failover, and throw away all that the replica wrote: nothing of it can be had again. The points are as they were, and the next sync
goes on. The replica has to be off, or is stopped by --stop. A VM that a planned failover stopped is started by --source-start.

A failback cannot be undone once the replica's content is a point: run hikae replica failback again, or hikae replica failover, which
starts the replica with all that it wrote.`),
		Example: example(`
hikae replica undo /srv/replicas web1 --stop --source-start /etc/vm/start-web1`),
		Args: want("SITE", "VM"),
	}
	f.vm.flags(cmd)
	cmd.Flags().StringArrayVar(&f.vm.urls, "source", nil, "`SOURCE`: the VM, as hikae backup takes it")
	cmd.Flags().BoolVar(&f.stop, "stop", false, "stop the replica by its monitor's power button")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaUndo(ctx, f, args[0], args[1])
	})
	return cmd
}

func (t *tool) replicaUndo(ctx context.Context, f *replicaUndoFlags, dir, vm string) (_ *reply, err error) {
	machine, err := f.vm.machine(vm)
	if err != nil {
		return nil, err
	}
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if err := site.known(ctx, vm); err != nil {
		return nil, err
	}
	opts := &replica.UndoOptions{}
	if machine != nil {
		opts.Source = machine
	}
	if f.stop {
		opts.Replica = site.running(vm, &f.vm)
	}
	res, err := site.of(t, vm, 0).Undo(ctx, opts)
	return site.replied(res, err, nil)
}

// running is the replica as a machine that can be stopped.
func (s *replicaSite) running(vm string, f *sourceFlags) *kvmsite.Machine {
	m := &kvmsite.Machine{Within: f.within, Hard: f.hard}
	if runs := s.runs(context.Background(), vm); runs != nil {
		m.Monitor = runs.Monitor
	}
	m.RunsWith = func(ctx context.Context) (bool, error) {
		by, err := s.Running(ctx, vm)
		return by != "", err
	}
	return m
}
