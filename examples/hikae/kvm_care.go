package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/kvm"
	kvmtest "github.com/hikae/hikae/kvm/selftest"
)

func (t *tool) kvmSelftestCommand() *cobra.Command {
	var scratch string
	cmd := &cobra.Command{
		Use:   "selftest kvm:///PATH[?agent=PATH]",
		Short: "Take a VM through a backup, an increment and a restore, and leave nothing",
		Long: text(`
Take a running VM through everything that Hikae does with one: two backups into a repository that is thrown away, the
second one incremental, verification, a restore to scratch, and a comparison with the VM. Nothing of it is left, in the
VM or on the host, and the records of its real backups are not touched. The result is a table that can be sent to whoever
can help; it holds nothing of what is on the disks.

The scratch folder needs room for the VM's data twice.`),
		Example: example(`
hikae kvm selftest 'kvm:///run/web1.qmp?agent=/run/web1.qga'
hikae kvm selftest 'kvm:///run/web1.qmp' --scratch /srv/scratch --json`),
		Args: want("SOURCE"),
	}
	cmd.Flags().StringVar(&scratch, "scratch", "", "`FOLDER` for the repository and what is restored (default: that of the source, else the system's)")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.kvmSelftest(ctx, args[0], scratch) })
	return cmd
}

// kvmMachine reads the URL of one machine.
func kvmMachine(source string) (kvm.Machine, *kvm.Options, error) {
	m, opts, err := kvm.ParseURL(source)
	if err != nil {
		return m, nil, outcome.Usage("For instance kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock.", "%v", err)
	}
	if m.QMP == "" {
		return m, nil, outcome.Usage("Name the monitor's socket: kvm:///run/vm/qmp.sock.", "%s names no socket of a monitor", source)
	}
	if self, err := os.Executable(); err == nil {
		opts.Guard = kvm.ProcessGuard(self, guardName)
	}
	return m, opts, nil
}

func (t *tool) kvmSelftest(ctx context.Context, source, scratch string) (*reply, error) {
	m, opts, err := kvmMachine(source)
	if err != nil {
		return nil, err
	}
	result, err := kvmtest.Run(ctx, m, &kvmtest.Options{KVM: opts, Scratch: scratch, Step: func(s selftest.Step) {
		t.tell("%-22s %-8s %s", s.Name, s.Status, s.Detail)
	}})
	if err != nil {
		return nil, &outcome.Error{Object: m.QMP, Text: "selftest of the VM at " + m.QMP, Err: err}
	}
	left := &reply{doc: result, loud: true, text: func(w *show.Printer) error { return printSelftest(w, result) }}
	warned := slices.ContainsFunc(result.Steps, func(s selftest.Step) bool { return s.Status == selftest.Warned })
	switch {
	case !result.OK:
		left.status = outcome.Failed
	case warned:
		left.status = outcome.Warned
	}
	return left, nil
}

func printSelftest(w *show.Printer, r selftest.Result) error {
	name := r.VM
	if name == "" {
		name = "VM"
	}
	if err := w.Printf("%s  %s\n\n", w.Bold(outcome.Clean(name)), outcome.Clean(r.Facts["hypervisor"])); err != nil {
		return err
	}
	table := show.NewTable("STEP", "RESULT", ">TIME", "")
	for _, s := range r.Steps {
		table.Row(s.Name, string(s.Status), show.Seconds(s.Seconds), outcome.Clean(s.Detail))
	}
	return table.Print(w)
}

// sweepFlags are what is removed, and how sure one must be.
type sweepFlags struct {
	access
	dryRun, thaw bool
}

func (t *tool) kvmSweepCommand() *cobra.Command {
	f := &sweepFlags{access: access{variable: "HIKAE_PASSWORD"}}
	cmd := &cobra.Command{
		Use:   "sweep kvm:///PATH[?agent=PATH]",
		Short: "Remove what killed sessions left in a VM, where their state folder is lost",
		Long: text(`
Remove from a running QEMU what bears Hikae's mark: exports, filters, fleecing images and their folder, and bitmaps. The
next backup with the same HIKAE_STATE_DIR does that by itself; this is for when that folder is lost.

It is refused while a session seems to be at work: somebody reads its exports, or what is there changes while it is
watched for three seconds. Bitmaps that restore points name are what makes the next backup incremental. With --repo those
that no point of that repository names go; name it only if it is the only one that the VM is backed up to. Without it
they all stay.

A guest that is found frozen is thawed with --thaw alone: nothing tells who froze it.`),
		Example: example(`
hikae kvm sweep 'kvm:///run/web1.qmp?agent=/run/web1.qga' --dry-run
hikae kvm sweep 'kvm:///run/web1.qmp?agent=/run/web1.qga' --repo /backup/hikae --thaw`),
		Args: want("SOURCE"),
	}
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only list what would go")
	cmd.Flags().BoolVar(&f.thaw, "thaw", false, "thaw a guest that is frozen")
	cmd.Flags().StringVar(&f.repo, "repo", "", "`REPO` whose restore points say which bitmaps are needed")
	f.secretFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.kvmSweep(ctx, f, args[0]) })
	return cmd
}

// sweptDoc is what sweep prints for scripts.
type sweptDoc struct {
	Found []kvm.Leftover `json:"found"`
}

func (t *tool) kvmSweep(ctx context.Context, f *sweepFlags, source string) (*reply, error) {
	m, opts, err := kvmMachine(source)
	if err != nil {
		return nil, err
	}
	lost := &kvm.LeftoverOptions{DryRun: f.dryRun, Thaw: f.thaw}
	if f.repo != "" {
		if lost.Keep, err = t.keepIDs(ctx, &f.access); err != nil {
			return nil, err
		}
	}
	found, err := kvm.New([]kvm.Machine{m}, opts).SweepLost(ctx, m.QMP, lost)
	if err != nil {
		return nil, &outcome.Error{Object: m.QMP, Text: "sweep the VM at " + m.QMP, Err: err}
	}
	left := &reply{doc: sweptDoc{append([]kvm.Leftover{}, found...)}, loud: true, text: func(w *show.Printer) error { return printSwept(w, found, f.dryRun) }}
	if slices.ContainsFunc(found, func(l kvm.Leftover) bool { return l.Kind == "frozen" && !l.Removed }) {
		left.status = outcome.Warned
		left.warnings = []string{"file systems of the guest are frozen"}
	}
	return left, nil
}

// keepIDs are what a repository's points name. It is never nil.
func (t *tool) keepIDs(ctx context.Context, a *access) ([]hikae.ChangeID, error) {
	r, err := t.open(ctx, a, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ids, err := job.KeepIDs(ctx, r)
	return append([]hikae.ChangeID{}, ids...), err
}

func printSwept(w *show.Printer, found []kvm.Leftover, dryRun bool) error {
	if len(found) == 0 {
		return w.Printf("nothing bears Hikae's mark\n")
	}
	table := show.NewTable("WHAT", "NAME", "BECOMES")
	for _, l := range found {
		becomes := "stays: " + l.Kept
		switch {
		case l.Removed:
			becomes = "removed"
		case l.Kept == "" && dryRun:
			becomes = "would be removed"
		}
		table.Row(l.Kind, outcome.Clean(strings.TrimSpace(l.Name+" "+on(l))), becomes)
	}
	return table.Print(w)
}

func on(l kvm.Leftover) string {
	if l.On == "" {
		return ""
	}
	return fmt.Sprintf("on %s", l.On)
}
