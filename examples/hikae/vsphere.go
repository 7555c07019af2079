package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/vmware"
)

func (t *tool) vsphereCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vsphere", Short: "List, check, test and clean up virtual machines of VMware vSphere", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error {
		return errors.New("what to do is missing: list, check, start, selftest, reset-tracking or sweep")
	}
	cmd.AddCommand(t.vsphereListCommand(), t.vsphereCheckCommand(), t.vsphereStartCommand(), t.vsphereSelftestCommand(), t.vsphereResetCommand(), t.vsphereSweepCommand())
	return cmd
}

func (t *tool) vsphereListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list vsphere://USER@HOST/[?match=…&tag=…]",
		Short: "List the VMs that an address means",
		Long: text(`
List the virtual machines of a vCenter Server or ESXi host that an address means; without parameters, all that there are.
The password is in HIKAE_SOURCE_PASSWORD, or a SAML token in HIKAE_SOURCE_TOKEN (@FILE names a file), or the cookie of a
session that exists in HIKAE_SOURCE_SESSION. What is left out of backups, such as templates, is listed with the reason.`),
		Example: example(`
hikae vsphere list vsphere://backup@vcenter.example.org/
hikae vsphere list 'vsphere://backup@vcenter.example.org/?folder=prod&tag=backup:daily' --json`),
		Args: want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereList(ctx, args[0]) })
	return cmd
}

// listedVM is one VM of a list.
type listedVM struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Path string `json:"path"`
	Skip string `json:"skip,omitempty"`
}

func (t *tool) vsphereList(ctx context.Context, source string) (*reply, error) {
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, err
	}
	defer v.close()
	found, err := v.Find(ctx, v.address.Select)
	if err != nil {
		return nil, v.notFound(err)
	}
	doc := struct {
		VMs []listedVM `json:"vms"`
	}{[]listedVM{}}
	for _, f := range found {
		doc.VMs = append(doc.VMs, listedVM{f.Ref.Value, f.Name, f.Path, f.Skip})
	}
	return &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
		table := show.NewTable("VM", "ID", "PATH", "LEFT OUT BECAUSE")
		for _, vm := range doc.VMs {
			table.Row(outcome.Clean(vm.Name), vm.ID, outcome.Clean(vm.Path), outcome.Clean(vm.Skip))
		}
		return table.Print(w)
	}}, nil
}

func (t *tool) vsphereCheckCommand() *cobra.Command {
	var restore bool
	cmd := &cobra.Command{
		Use:   "check vsphere://USER@HOST/?vm=…",
		Short: "Say what would stop or weaken a backup, and touch nothing",
		Long: text(`
Look at each VM that the address means, and say what would stop or weaken its backup: privileges that are missing, by name
and object; a licence that forbids it; disks that a snapshot does not cover; datastores without room; snapshots and
changed-block tracking. Nothing is changed on the server. A VM that cannot be backed up ends the command with exit status
1, one that can with weaknesses with 3.`),
		Example: example(`
hikae vsphere check 'vsphere://backup@vcenter.example.org/?vm=web1'
hikae vsphere check 'vsphere://backup@vcenter.example.org/?match=web*' --for-restore --json`),
		Args: want("SOURCE"),
	}
	cmd.Flags().BoolVar(&restore, "for-restore", false, "look for what a restore needs, too")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereCheck(ctx, args[0], restore) })
	return cmd
}

func (t *tool) vsphereCheck(ctx context.Context, source string, restore bool) (*reply, error) {
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, err
	}
	defer v.close()
	found, err := v.found(ctx, source)
	if err != nil {
		return nil, err
	}
	opts := &vmware.PreflightOptions{Quiesce: v.address.Options.Quiesce, KeepTracking: v.address.Options.KeepTracking,
		Transports: named(v.address.Options.Transports)}
	if restore {
		opts.For = []string{vmware.ForRestore}
	}
	doc := struct {
		VMs []*vmware.Preflight `json:"vms"`
	}{}
	left := &reply{loud: true, text: func(w *show.Printer) error {
		for _, p := range doc.VMs {
			if err := printPreflight(w, p); err != nil {
				return err
			}
		}
		return nil
	}}
	for _, f := range found {
		p, err := v.Preflight(ctx, f.Ref, opts)
		if err != nil {
			return nil, &outcome.Error{Object: f.Path, Text: "check of " + f.Name, Err: err}
		}
		doc.VMs = append(doc.VMs, p)
		for _, finding := range p.Findings {
			switch finding.Severity {
			case vmware.Stop:
				left.status = outcome.Failed
			case vmware.Weak:
				if left.status == outcome.Done {
					left.status = outcome.Warned
				}
			}
		}
	}
	left.doc = doc
	return left, nil
}

func printPreflight(w *show.Printer, p *vmware.Preflight) error {
	if err := w.Printf("%s  (%s)  changed-block tracking: %s\n\n", w.Bold(outcome.Clean(p.Name)), p.VM, p.Tracking); err != nil {
		return err
	}
	disks := show.NewTable("DISK", "SLOT", ">SIZE", "FILE", "LEFT OUT BECAUSE")
	for _, d := range p.Disks {
		disks.Row(d.Key, d.Slot, show.Size(d.Size), outcome.Clean(d.File), outcome.Clean(d.Skip))
	}
	if err := disks.Print(w); err != nil {
		return err
	}
	if len(p.Findings) == 0 {
		return w.Printf("\nnothing stands in the way\n\n")
	}
	if err := w.Printf("\n"); err != nil {
		return err
	}
	for _, f := range p.Findings {
		if err := w.Printf("%s\n", outcome.Clean(f.String())); err != nil {
			return err
		}
	}
	return w.Printf("\n")
}

func (t *tool) vsphereResetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset-tracking vsphere://USER@HOST/?vm=NAME",
		Short: "Have a VM's changed-block tracking begin anew",
		Long: text(`
Turn changed-block tracking of one VM off and on again, with a short snapshot each time, so that it begins anew. That is
the cure where a backup found that tracking had forgotten a change. The next backup reads the disks whole. A VM that has
snapshots is refused.`),
		Example: example(`hikae vsphere reset-tracking 'vsphere://backup@vcenter.example.org/?vm=web1'`),
		Args:    want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereReset(ctx, args[0]) })
	return cmd
}

// vsphereOne logs in and finds the one VM that is meant. What it opens is let go of when the command ends.
func (t *tool) vsphereOne(ctx context.Context, source string) (*vsphere, vmware.Found, *hikae.FileJournal, error) {
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, vmware.Found{}, nil, err
	}
	t.atEnd(v.close)
	t.server = v
	found, err := v.found(ctx, source)
	if err != nil {
		return nil, vmware.Found{}, nil, err
	}
	if len(found) != 1 {
		return nil, vmware.Found{}, nil, outcome.Usage("Name one VM by &vm=.", "%d VMs are meant, and one is worked on at a time", len(found))
	}
	journal, err := t.openJournal()
	if err != nil {
		return nil, vmware.Found{}, nil, err
	}
	t.atEnd(func() { journal.Close() })
	return v, found[0], journal, nil
}

func (t *tool) vsphereReset(ctx context.Context, source string) (*reply, error) {
	v, vm, journal, err := t.vsphereOne(ctx, source)
	if err != nil {
		return nil, err
	}
	p, err := vmware.New(v.Client, []types.ManagedObjectReference{vm.Ref}, nil)
	if err != nil {
		return nil, err
	}
	if err := p.ResetTracking(ctx, vm.Ref.Value, journal); err != nil {
		return nil, &outcome.Error{Object: vm.Path, Text: "reset tracking of " + vm.Name, Err: err}
	}
	doc := listedVM{vm.Ref.Value, vm.Name, vm.Path, ""}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("changed-block tracking of %s has begun anew; its next backup reads the disks whole\n", outcome.Clean(doc.Name))
	}}, nil
}

func (t *tool) vsphereSweepCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sweep vsphere://USER@HOST/",
		Short: "Remove what killed commands left on a server",
		Long: text(`
Remove from a vCenter Server or ESXi host what killed commands of this machine left there: snapshots, disks that hang on
the proxy VM, export leases, halves of restored VMs. The journal in HIKAE_STATE_DIR knows what that is, and nothing else
is touched. The next backup from the same server does it too.`),
		Example: example(`hikae vsphere sweep vsphere://backup@vcenter.example.org/`),
		Args:    want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereSweep(ctx, args[0]) })
	return cmd
}

func (t *tool) vsphereSweep(ctx context.Context, source string) (*reply, error) {
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, err
	}
	defer v.close()
	t.server = v
	journal, err := t.openJournal()
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	undone, err := journal.Sweep(ctx, map[string]hikae.Sweeper{"vmware.": onThisServer{vsphereSweeper{t}}, "": notHere{}}, nil)
	stands, err := leftStanding(err)
	doc := struct {
		Undone int      `json:"undone"`
		Stands []string `json:"stands"` // left as it is, and why
	}{undone, stands}
	left := &reply{doc: doc, text: func(w *show.Printer) error { return w.Printf("%s\n", removed(undone)) }}
	for _, text := range stands {
		t.tell("note: %s", text)
	}
	if err != nil {
		return left, &outcome.Error{Object: v.Address(), Text: "sweep of " + v.Address(), Err: err}
	}
	return left, nil
}

func removed(n int) string {
	switch n {
	case 0:
		return "there was nothing to remove"
	case 1:
		return "one thing was removed"
	}
	return fmt.Sprintf("%d things were removed", n)
}

// errElsewhere is what is left for another command to undo.
var errElsewhere = errors.New("it is not on this server")

// onThisServer leaves what is on others.
type onThisServer struct{ vsphereSweeper }

func (s onThisServer) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if e.Facts["server"] != s.t.server.Address() {
		return errElsewhere
	}
	return s.vsphereSweeper.Undo(ctx, e, keep)
}

// notHere leaves what is of another kind.
type notHere struct{}

func (notHere) Undo(context.Context, hikae.Effect, []hikae.ChangeID) error { return errElsewhere }

// leftStanding parts what a sweep says: what is left as it is on purpose, in words, and what went wrong. What is left to others is
// neither.
func leftStanding(err error) (stands []string, wrong error) {
	stands = []string{}
	if err == nil {
		return stands, nil
	}
	list := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	var out []error
	for _, one := range list {
		var started *vmware.StartedError
		var incomplete *vmware.IncompleteError
		switch {
		case errors.Is(one, errElsewhere):
		case errors.As(one, &started) && started.Err == nil:
			stands = append(stands, started.Error()+". "+started.Hint())
		case errors.As(one, &incomplete):
			stands = append(stands, incomplete.Error())
		case hypervStanding(one) != "":
			stands = append(stands, hypervStanding(one))
		default:
			out = append(out, one)
		}
	}
	return stands, errors.Join(out...)
}

// vsphereRestoreHint is for what keeps a VM of vSphere from being restored.
func vsphereRestoreHint(err error) string {
	var running *vmware.RunningError
	var snapshots *vmware.SnapshotsError
	switch {
	case errors.As(err, &running):
		return "Shut it down, or add &power=off to switch it off as if its power failed."
	case errors.As(err, &snapshots):
		return "Remove its snapshots first. &snapshots=under writes under them: they are worth nothing afterwards."
	}
	return ""
}
