package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
)

func (t *tool) hypervCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hyperv", Short: "List, check, test and clean up virtual machines of Microsoft Hyper-V", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error {
		return errors.New("what to do is missing: list, check, selftest or sweep")
	}
	cmd.AddCommand(t.hypervListCommand(), t.hypervCheckCommand(), t.hypervSelftestCommand(), t.hypervSweepCommand())
	return cmd
}

func (t *tool) hypervListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list hyperv://USER@HOST/[?match=…]",
		Short: "List the VMs that an address means",
		Long: text(`
List the virtual machines of a Hyper-V host, or of all hosts of its cluster, that an address means; without parameters,
all that there are. The password is in HIKAE_SOURCE_PASSWORD. See also: hikae help hyperv-addresses.`),
		Example: example(`
hikae hyperv list hyperv://backup@hv1.example.org/
hikae hyperv list 'hyperv://backup@hv1.example.org/?match=web*' --json`),
		Args: want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.hypervList(ctx, args[0]) })
	return cmd
}

// hypervVM is one VM of a list.
type hypervVM struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Host  string `json:"host"`
	State string `json:"state"`
	Disks int    `json:"disks"`
	Size  int64  `json:"size"` // of the disks, bytes
}

func (t *tool) hypervList(ctx context.Context, source string) (*reply, error) {
	s, err := t.hypervAt(ctx, source)
	if err != nil {
		return nil, err
	}
	ids, gone, err := s.SelectReachable(ctx, s.address.Select)
	if err != nil {
		return nil, s.notFound(err)
	}
	if ids == nil && gone != nil {
		ids = []string{}
	}
	p, err := hyperv.New(s.Site, ids, nil)
	if err != nil {
		return nil, err
	}
	doc := struct {
		VMs []hypervVM `json:"vms"`
	}{[]hypervVM{}}
	left := &reply{loud: true}
	for _, one := range s.lost(gone) {
		left.warnings, left.status = append(left.warnings, one.err.Error()), outcome.Warned
	}
	for vm, err := range p.VMs(ctx) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil { // a host that does not answer, a VM that goes: the others are listed all the same
			left.warnings, left.status = append(left.warnings, err.Error()), outcome.Warned
			continue
		}
		one := hypervVM{ID: vm.ID, Name: vm.Name, Host: vm.Facts["host"], State: vm.Facts["state"], Disks: len(vm.Disks)}
		for _, d := range vm.Disks {
			one.Size += d.Size
		}
		doc.VMs = append(doc.VMs, one)
	}
	left.doc, left.text = doc, func(w *show.Printer) error { return printHyperVs(w, doc.VMs) }
	return left, nil
}

func printHyperVs(w *show.Printer, list []hypervVM) error {
	table := show.NewTable("VM", "ID", "HOST", "STATE", ">DISKS", ">SIZE")
	for _, vm := range list {
		table.Row(outcome.Clean(vm.Name), vm.ID, outcome.Clean(vm.Host), vm.State, fmt.Sprint(vm.Disks), show.Size(vm.Size))
	}
	return table.Print(w)
}

func (t *tool) hypervCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check hyperv://USER@HOST/?vm=…",
		Short: "Say how VMs would be backed up, why so, and what stands in the way; touch nothing",
		Long: text(`
Look at each VM that the address means, and say which procedure would back it up, with every condition that led there;
and what would stop or weaken that: rights, disks that no checkpoint covers, checkpoints and merges that are under way,
free space, guests that cannot be quiesced. Nothing is changed on the host. A VM that cannot be backed up ends the command
with exit status 1, one that can with weaknesses with 3.`),
		Example: example(`
hikae hyperv check 'hyperv://backup@hv1.example.org/?vm=web1'
hikae hyperv check 'hyperv://backup@hv1.example.org/?match=web*&mode=off-host' --json`),
		Args: want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.hypervCheck(ctx, args[0]) })
	return cmd
}

func (t *tool) hypervCheck(ctx context.Context, source string) (*reply, error) {
	s, err := t.hypervAt(ctx, source)
	if err != nil {
		return nil, err
	}
	list, lost, err := s.reachable(ctx)
	if err != nil {
		return nil, err
	}
	p, err := hyperv.New(s.Site, nil, s.options(t))
	if err != nil {
		return nil, err
	}
	doc := struct {
		VMs []*hyperv.Preflight `json:"vms"`
	}{}
	left := &reply{loud: true, text: func(w *show.Printer) error {
		for _, found := range doc.VMs {
			if err := printHyperVCheck(w, found); err != nil {
				return err
			}
		}
		return nil
	}}
	for _, one := range lost {
		left.warnings, left.status = append(left.warnings, one.err.Error()), outcome.Warned
	}
	for _, vm := range list {
		found, err := p.Preflight(ctx, vm.id)
		if err != nil {
			return nil, &outcome.Error{Object: vm.name, Text: "check of " + vm.name, Err: err}
		}
		doc.VMs = append(doc.VMs, found)
		left.status = worse(left.status, found)
	}
	left.doc = doc
	return left, nil
}

// worse is the exit status after one more VM: what cannot be backed up goes before what is weak.
func worse(status outcome.Status, p *hyperv.Preflight) outcome.Status {
	for _, f := range p.Findings {
		switch {
		case f.Severity == hyperv.Stop || status == outcome.Failed:
			return outcome.Failed
		case f.Severity == hyperv.Weak && status == outcome.Done:
			status = outcome.Warned
		}
	}
	return status
}

func printHyperVCheck(w *show.Printer, p *hyperv.Preflight) error {
	if err := w.Printf("%s  (%s) on %s\n\n", w.Bold(outcome.Clean(p.Name)), p.VM, outcome.Clean(p.Host)); err != nil {
		return err
	}
	if err := printPlan(w, p.Plan); err != nil {
		return err
	}
	disks := show.NewTable("DISK", "PLACE", "FORMAT", ">SIZE", "FILE", "LEFT OUT BECAUSE")
	for _, d := range p.Disks {
		disks.Row(outcome.Clean(d.Key), d.Place, string(d.Format), show.Size(d.Size), outcome.Clean(d.File), outcome.Clean(d.Skip))
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
		line := f.Severity.String() + ": " + f.What
		if f.Object != "" && !strings.Contains(f.Object, p.VM) {
			line = f.Severity.String() + ": " + f.Object + ": " + f.What
		} else if _, disk, ok := strings.Cut(f.Object, ", "); ok {
			line = f.Severity.String() + ": " + disk + ": " + f.What
		}
		if f.Hint != "" {
			line += "\n      next: " + f.Hint
		}
		for part := range strings.SplitSeq(line, "\n") {
			if err := w.Printf("%s\n", outcome.Clean(part)); err != nil {
				return err
			}
		}
	}
	return w.Printf("\n")
}

// printPlan says how a VM is backed up, and what led there.
func printPlan(w *show.Printer, p *hyperv.Plan) error {
	if p == nil {
		return w.Printf("there is no way to back it up as it was asked for\n\n")
	}
	tracking := "off: all is read each time"
	if p.Tracking {
		tracking = "on"
	}
	if err := w.Facts("procedure", string(p.Procedure), "mode", string(p.Mode), "change tracking", tracking); err != nil {
		return err
	}
	if p.Procedure != hyperv.Production {
		if err := w.Printf("note: %s\n", requester.Unverified); err != nil {
			return err
		}
	}
	if err := w.Printf("\n"); err != nil || len(p.Reasons) == 0 {
		return err
	}
	table := show.NewTable("ABOUT", "CONDITION", "MET", "FOUND")
	for _, r := range p.Reasons {
		met := "yes"
		if !r.Met {
			met = "no"
		}
		table.Row(r.About, outcome.Clean(r.Rule), met, outcome.Clean(r.Found))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	return w.Printf("\n")
}

func (t *tool) hypervSweepCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sweep hyperv://USER@HOST/",
		Short: "Remove what killed commands left on a host",
		Long: text(`
Remove from a Hyper-V host, or the hosts of a cluster, what killed commands of this machine left there: checkpoints, sets
of shadow copies, reference points, the helper, halves of restored VMs. The journal in HIKAE_STATE_DIR knows what that is,
and nothing else is touched: no checkpoint of yours, and no AVHDX file. A merge that the host has not ended yet is told,
and looked after the next time. The next backup from the same host does all of this too.`),
		Example: example(`hikae hyperv sweep hyperv://backup@hv1.example.org/`),
		Args:    want("SOURCE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.hypervSweep(ctx, args[0]) })
	return cmd
}

func (t *tool) hypervSweep(ctx context.Context, source string) (*reply, error) {
	s, err := t.hypervAt(ctx, source)
	if err != nil {
		return nil, err
	}
	journal, err := t.openJournal()
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	undone, err := journal.Sweep(ctx, map[string]hikae.Sweeper{"hyperv.": onThisSite{hypervSweeper{t: t}}, "": notHere{}}, nil)
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
		return left, &outcome.Error{Object: s.Address(), Text: "sweep of " + s.Address(), Err: err}
	}
	return left, nil
}

// onThisSite leaves what is on others.
type onThisSite struct{ hypervSweeper }

func (s onThisSite) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if e.Facts["site"] != s.t.site.Address() {
		return errElsewhere
	}
	return s.hypervSweeper.Undo(ctx, e, keep)
}

// hypervStanding is what a sweep of a host leaves as it is on purpose, in words; empty where it is a failure.
func hypervStanding(err error) string {
	if pending, ok := errors.AsType[*hyperv.PendingError](err); ok {
		text := pending.Error()
		if pending.Hint != "" {
			text += ". " + pending.Hint
		}
		return text
	}
	if unproven, ok := errors.AsType[*hyperv.UnprovenError](err); ok {
		return unproven.Error() + ". " + unproven.Hint
	}
	if half, ok := errors.AsType[*hyperv.IncompleteError](err); ok && !half.New {
		return half.Error()
	}
	return ""
}

// hypervRestoreHint is for what keeps a VM of Hyper-V from being restored.
func hypervRestoreHint(err error) string {
	if running, ok := errors.AsType[*hyperv.RunningError](err); ok {
		return running.Hint() + " &power=off switches it off as if its power failed."
	}
	if _, ok := errors.AsType[*hyperv.CheckpointsError](err); ok {
		return "Remove the checkpoints and wait until they are merged; or add &checkpoints=under, which writes on top of them; or restore to a new VM."
	}
	if altered, ok := errors.AsType[*hyperv.AlteredError](err); ok {
		return altered.Hint()
	}
	if busy, ok := errors.AsType[*hikae.BusyError](err); ok && strings.Contains(busy.Owner, "restore in place") {
		return "Run it again from the machine where it ran; or, where that restore is known to be dead, add &takeover=yes to --to."
	}
	if absent, ok := errors.AsType[*hyperv.AbsentError](err); ok {
		return map[string]string{"folder": `Name a folder of the host by &path=, for instance &path=D:\VMs.`, "host": "Name a host of the cluster by &host=; `hikae hyperv list` shows them.",
			"switch": "Name one of the host's switches by &switch=OLD=NEW, or none by &switch=OLD=-; &network=off unplugs all."}[absent.What]
	}
	return ""
}
