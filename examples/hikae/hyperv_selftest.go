package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	hypervtest "github.com/hikae/hikae/hyperv/selftest"
	"github.com/hikae/hikae/job/selftest"
)

func (t *tool) hypervSelftestCommand() *cobra.Command {
	var scratch string
	var names bool
	cmd := &cobra.Command{
		Use:   "selftest 'hyperv://USER@HOST/?vm=NAME'",
		Short: "Take a VM through a backup, an increment and a restore to scratch, and leave nothing",
		Long: text(`
Take one VM through everything that Hikae does with one: two backups into a repository that is thrown away, the second one
incremental where changes are tracked; verification; a restore to scratch; a comparison with the VM; and a quiesced
backup where the guest can be asked. The VM may run.

What it does to the VM: four checkpoints, or sets of shadow copies, one after the other, are made and removed, as backups
do. Reference points of the test are removed at its end. &quiesce=off leaves the guest alone. Nothing is written to its
disks, and nothing is restored to the host.

The result is a table that can be sent to whoever can help. It has releases and builds, the plan with its reasons, and how
each step went; names of hosts, addresses and files only with --names.

The scratch folder needs room for the VM's data twice. A step that failed ends the command with exit status 1, one that was
done with something to look at with 3.`),
		Example: example(`
hikae hyperv selftest 'hyperv://backup@hv1.example.org/?vm=web1' --json > selftest.json
hikae hyperv selftest 'hyperv://backup@hv1.example.org/?vm=web1&quiesce=off' --scratch /srv/scratch`),
		Args: want("SOURCE"),
	}
	cmd.Flags().StringVar(&scratch, "scratch", "", "`FOLDER` for the repository and what is restored (default: the system's)")
	cmd.Flags().BoolVar(&names, "names", false, "tell names of hosts, addresses and files, too")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.hypervSelftest(ctx, args[0], scratch, names)
	})
	return cmd
}

func (t *tool) hypervSelftest(ctx context.Context, source, scratch string, names bool) (*reply, error) {
	s, err := t.hypervAt(ctx, source)
	if err != nil {
		return nil, err
	}
	vm, err := s.one(ctx, "one is tested at a time")
	if err != nil {
		return nil, err
	}
	journal, err := t.openJournal()
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	result, err := hypervtest.Run(ctx, s.Site, vm.id, &hypervtest.Options{HyperV: s.options(t), Scratch: scratch, Journal: journal, Names: names,
		Step: func(s selftest.Step) { t.tell("%-22s %-8s %s", s.Name, s.Status, s.Detail) }})
	if err != nil {
		return nil, &outcome.Error{Object: vm.name, Text: "selftest of " + vm.name, Err: err}
	}
	left := &reply{doc: result, loud: true, text: func(w *show.Printer) error { return printVSphereTest(w, result) }}
	switch {
	case !result.OK:
		left.status = outcome.Failed
	case slices.ContainsFunc(result.Steps, func(s selftest.Step) bool { return s.Status == selftest.Warned }):
		left.status = outcome.Warned
	}
	return left, nil
}
