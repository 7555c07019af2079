package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/pipe"
)

// replicaFailbackFlags are where a VM comes home to.
type replicaFailbackFlags struct {
	vm       sourceFlags
	to       string
	new      bool
	off      bool
	plan     bool
	replicas []string // programs that stop the replica
}

func (t *tool) replicaFailbackCommand() *cobra.Command {
	f := &replicaFailbackFlags{}
	cmd := &cobra.Command{
		Use:   "failback SITE VM --to PATH [--source-start PROGRAM]",
		Short: "Bring a VM home from its replica",
		Long: text(`
Stop the replica of a VM, make a point of what it wrote, write that point over the original, and start the original. Nothing that the
replica had written durably is lost. The replica is a replica again then, and the next sync goes on from that point.

PATH is as hikae restore --in-place has it: the URL of the VM, which must be off, or a raw file or block device. Only what differs is
written where that is known. With --new a new VM or new files are made instead, as hikae restore makes them.

The replica is stopped by its monitor's power button, or by --replica-stop; with --replica-off it has to be off.

If it is killed, the same command again goes on. Where the original cannot be written, hikae replica failover starts the replica again,
with all that it wrote. --plan says what would be done, and touches nothing.`),
		Example: example(`
hikae replica failback /srv/replicas web1 --to kvm:///run/web1.qmp --plan
hikae replica failback /srv/replicas web1 --to kvm:///run/web1.qmp --source-start /etc/vm/start-web1
hikae replica failback /srv/replicas web1 --to 'vsphere://backup@vcenter.example.org/?vm=web1'
hikae replica failback /srv/replicas web1 --to /vm/web1.raw --replica-off
hikae replica failback /srv/replicas web1 --to kvm:///vm/web1-new/ --new`),
		Args: want("SITE", "VM"),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`PATH` of the original (required)")
	flags.BoolVar(&f.new, "new", false, "make a new VM, or new files, at PATH")
	flags.BoolVar(&f.off, "replica-off", false, "the replica is off: stop nothing")
	flags.BoolVar(&f.plan, "plan", false, "only say what would be done")
	flags.StringArrayVar(&f.replicas, "replica-stop", nil, "`PROGRAM`, and its arguments, that stops the replica; may repeat")
	f.vm.flags(cmd)
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaFailback(ctx, f, args[0], args[1])
	})
	return cmd
}

func (t *tool) replicaFailback(ctx context.Context, f *replicaFailbackFlags, dir, vm string) (_ *reply, err error) {
	if !f.new && strings.HasPrefix(f.to, kvmScheme) {
		f.vm.urls = []string{f.to}
	}
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
	opts := &replica.FailbackOptions{Home: func(ctx context.Context, _ pipe.Backend, point pipe.PointInfo) (job.RestoreResult, error) {
		return t.home(ctx, f, site, point)
	}}
	if machine != nil {
		opts.Original = machine
	}
	if !f.off {
		m := site.running(vm, &f.vm)
		if len(f.replicas) > 0 {
			m.StopWith = func(ctx context.Context) error { return runProgram(ctx, f.replicas, vm) }
		}
		opts.Replica = m
	}
	rep := site.of(t, vm, 0)
	if f.plan {
		plan, err := rep.PlanFailback(ctx, opts)
		if err != nil {
			return nil, site.explain(vm, err)
		}
		return showFailbackPlan(plan), nil
	}
	res, err := rep.Failback(ctx, opts)
	return site.replied(res, err, nil)
}

// home writes a point of the site over the original.
func (t *tool) home(ctx context.Context, f *replicaFailbackFlags, site *replicaSite, point pipe.PointInfo) (none job.RestoreResult, err error) {
	to := &restoreFlags{access: &access{repo: site.Dir()}, to: f.to, inPlace: !f.new}
	target, name := to.to, ""
	var restorer hikae.Restorer
	switch {
	case to.toVSphere():
		restorer, target, name, err = to.vsphereRestorer(ctx, t)
	case to.toHyperV():
		restorer, target, name, err = to.hypervRestorer(ctx, t)
	case to.toKVM():
		restorer, target, err = to.kvmRestorer(ctx, site.place, point)
	default:
		restorer, err = to.restorer(ctx)
	}
	if err == nil {
		err = to.sameVM(point)
	}
	if err != nil {
		return none, err
	}
	progress := t.bars()
	defer progress.Close()
	opts := &job.RestoreOptions{Name: name, Sessions: site.sessions, Journal: site.journal, Events: progress.Event}
	if to.inPlace {
		opts.InPlace = target
	}
	return job.Restore(ctx, site.place, point, restorer, opts)
}

func showFailbackPlan(plan replica.FailbackPlan) *reply {
	left := &reply{doc: plan, loud: true, warnings: plan.Problems, text: func(w *show.Printer) error {
		word := "it is off"
		if plan.Running != "" {
			word = "it runs: " + plan.Running
		}
		facts := []string{"replica", word, "point", plan.Point, "disks", strings.Join(plan.Disks, ", "), "to compare and write", show.Size(plan.Bytes)}
		if plan.Step != "" {
			facts = append(facts, "goes on at", plan.Step)
		}
		if !plan.Since.IsZero() {
			facts = append(facts, "failed over", show.Time(plan.Since))
		}
		return w.Facts(facts...)
	}}
	if len(plan.Problems) > 0 {
		left.status = outcome.Warned
	}
	return left
}
