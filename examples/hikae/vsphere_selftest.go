package main

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job/selftest"
	vspheretest "github.com/hikae/hikae/vmware/selftest"
)

// vsphereTestFlags are how a VM is tested.
type vsphereTestFlags struct {
	scratch string
	names   bool
}

func (t *tool) vsphereSelftestCommand() *cobra.Command {
	f := &vsphereTestFlags{}
	cmd := &cobra.Command{
		Use:   "selftest 'vsphere://USER@HOST/?vm=NAME'",
		Short: "Take a VM through a backup, an increment, a restore and each transport, and leave nothing",
		Long: text(`
Take one VM through everything that Hikae does with one: two backups into a repository that is thrown away, the second one
incremental; verification; a restore to scratch; a comparison with the VM; a quiesced snapshot where VMware Tools run; and
some of its disks read by each transport by itself, and compared. The VM may run.

What it does to the VM: five snapshots, one after the other, are taken and removed, as backups do. Changed-block tracking
is enabled where it is off, and stays so: &tracking=keep leaves it as it is. &quiesce=off leaves the guest alone. Nothing is
written to its disks, and nothing is restored to the server.

The result is a table that can be sent to whoever can help. It has products, releases and builds, and how each step went;
names of hosts, addresses and files only with --names. NBD in the clear is tried only where &transport= names it.

The scratch folder needs room for the VM's data twice. A step that failed ends the command with exit status 1, one that was
done with something to look at with 3.`),
		Example: example(`
hikae vsphere selftest 'vsphere://backup@vcenter.example.org/?vm=web1' --json > selftest.json
hikae vsphere selftest 'vsphere://root@esx1.example.org/?vm=web1&tracking=keep&thumbprint=3A:9F:…' --scratch /srv/scratch`),
		Args: want("SOURCE"),
	}
	cmd.Flags().StringVar(&f.scratch, "scratch", "", "`FOLDER` for the repository and what is restored (default: that of the source, else the system's)")
	cmd.Flags().BoolVar(&f.names, "names", false, "tell names of hosts, addresses and files, too")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereSelftest(ctx, f, args[0]) })
	return cmd
}

func (t *tool) vsphereSelftest(ctx context.Context, f *vsphereTestFlags, source string) (*reply, error) {
	v, vm, journal, err := t.vsphereOne(ctx, source)
	if err != nil {
		return nil, err
	}
	result, err := vspheretest.Run(ctx, v.Client, vm.Ref, &vspheretest.Options{VMware: &v.address.Options, Scratch: f.scratch,
		Journal: journal, Names: f.names, Step: func(s selftest.Step) { t.tell("%-22s %-8s %s", s.Name, s.Status, s.Detail) }})
	if err != nil {
		return nil, &outcome.Error{Object: vm.Path, Text: "selftest of " + vm.Name, Err: err}
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

func printVSphereTest(w *show.Printer, r selftest.Result) error {
	if err := printSelftest(w, r); err != nil {
		return err
	}
	if err := w.Printf("\n"); err != nil {
		return err
	}
	table := show.NewTable("WHAT", "IS")
	for _, name := range slices.Sorted(maps.Keys(r.Facts)) {
		table.Row(name, outcome.Clean(r.Facts[name]))
	}
	return table.Print(w)
}
