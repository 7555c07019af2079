package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/retention"
)

// forgetFlags say which points go: by name, or by what is to be kept.
type forgetFlags struct {
	*access
	vms    []string
	keep   map[retention.Rule]*string
	zone   string
	dryRun bool
	note   string
}

func (t *tool) forgetCommand() *cobra.Command {
	f := &forgetFlags{keep: map[retention.Rule]*string{}}
	cmd := &cobra.Command{
		Use:   "forget --repo REPO POINT… | --keep-last N --keep-daily N … [--vm VM]… [--dry-run]",
		Short: "Take restore points away, by name or by a policy",
		Long: text(`
Take restore points away. They are gone at once; the room they take is freed by the next ` + "`hikae prune`" + `.

With names, those points go. With --keep-…, each VM keeps what one of the rules keeps, and the rest goes. The newest point
of a VM is never taken away by a policy, and neither is a held one, one whose time is in doubt, or the last one that is
whole or consistent. Numbers are points or periods: --keep-daily 7 keeps the newest point of each of the newest seven days
that have any. "all" keeps every period. A policy that cannot be read, or keeps nothing, takes nothing away.

--dry-run shows what would go and why, and takes nothing away.`),
		Example: example(`
hikae forget --repo /backup/hikae web1@latest~30
hikae forget --repo /backup/hikae --keep-last 3 --keep-daily 14 --keep-weekly 8 --keep-monthly 12 --dry-run
hikae forget --repo /backup/hikae --vm web1 --keep-within 30d --zone Europe/Berlin`),
		Args: want("[POINT]…"),
	}
	f.access = repoFlags(cmd)
	for _, field := range retention.Fields() {
		if field.Rule != retention.Tag { // the tool gives points no tags
			f.keep[field.Rule] = cmd.Flags().String(field.Flag, "", field.Help)
		}
	}
	cmd.Flags().StringArrayVar(&f.vms, "vm", nil, "the policy is for `VM`; may repeat; none: for all")
	cmd.Flags().StringVar(&f.zone, "zone", "UTC", "time `ZONE` that names days, weeks and months, such as Europe/Berlin; Local is this machine's")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would go, and take nothing away")
	cmd.Flags().StringVar(&f.note, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.forget(ctx, f, args) })
	return cmd
}

// forgetDoc is what forget prints for scripts.
type forgetDoc struct {
	Removed []decision `json:"removed"`
	Kept    []decision `json:"kept"`
	DryRun  bool       `json:"dryRun"`
}

// decision is what becomes of one point.
type decision struct {
	ID      string    `json:"id"`
	VM      string    `json:"vm"`
	Time    time.Time `json:"time"`
	Reasons []string  `json:"reasons"`
	Doubt   string    `json:"doubt,omitempty"`
}

func (t *tool) forget(ctx context.Context, f *forgetFlags, points []string) (_ *reply, err error) {
	policy, byPolicy, err := f.policy()
	if err != nil {
		return nil, err
	}
	switch {
	case byPolicy && len(points) > 0:
		return nil, outcome.Usage("Name points, or give --keep-… flags.", "points and a policy were given together")
	case !byPolicy && len(points) == 0:
		return nil, outcome.Usage("Name points, or say what is to be kept: --keep-last 7, for instance.", "nothing says what goes")
	case !byPolicy && len(f.vms) > 0:
		return nil, outcome.Usage("Say what is to be kept: --keep-last 7, for instance.", "--vm is for a policy")
	}
	zone, err := time.LoadLocation(f.zone)
	if err != nil {
		return nil, outcome.Usage("For instance --zone Europe/Berlin.", "--zone %s is not a time zone that this machine knows", f.zone)
	}
	r, err := t.openHere(ctx, f.access, f.dryRun)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	doc := forgetDoc{Removed: []decision{}, Kept: []decision{}, DryRun: f.dryRun}
	if byPolicy {
		err = t.forgetByPolicy(ctx, r, f, policy, zone, &doc)
	} else {
		err = t.forgetNamed(ctx, r, f, points, &doc)
	}
	if err != nil {
		return nil, about(f.repo, "forget points", err)
	}
	return &reply{doc: doc, loud: f.dryRun, text: func(w *show.Printer) error { return doc.print(w, f.repo) }}, nil
}

// policy reads the --keep flags.
func (f *forgetFlags) policy() (p retention.Policy, given bool, err error) {
	for _, field := range retention.Fields() {
		value := f.keep[field.Rule]
		if value == nil || *value == "" {
			continue
		}
		given = true
		if err := p.Set(field.Flag, *value); err != nil {
			return p, given, outcome.Usage("For instance --keep-last 7 --keep-daily 14.", "--%s: %v", field.Flag, err)
		}
	}
	if !given {
		return p, false, nil
	}
	if err := p.Validate(); err != nil {
		return p, true, outcome.Usage("Nothing was taken away. For instance --keep-last 7.", "%v", err)
	}
	return p, true, nil
}

func (t *tool) forgetByPolicy(ctx context.Context, r *opened, f *forgetFlags, policy retention.Policy, zone *time.Location, doc *forgetDoc) error {
	for _, vm := range f.vms {
		if err := r.known(ctx, vm); err != nil {
			return err
		}
	}
	plan, err := r.local.Retain(ctx, policy, &repo.RetainOptions{VMs: f.vms, Zone: zone, Now: time.Now(), DryRun: f.dryRun, Note: f.note})
	if err != nil {
		return err
	}
	doc.add(plan)
	return nil
}

// add takes the decisions of a policy.
func (doc *forgetDoc) add(plan *retention.Plan) {
	for _, d := range plan.Decisions {
		out := decision{ID: d.Point.ID, VM: d.Point.VM, Time: d.Point.Time.UTC()}
		for _, reason := range d.Reasons {
			out.Reasons = append(out.Reasons, reason.String())
		}
		if d.Doubt != nil {
			out.Doubt = d.Doubt.String()
		}
		if d.Keep {
			doc.Kept = append(doc.Kept, out)
		} else {
			doc.Removed = append(doc.Removed, out)
		}
	}
}

// known refuses a VM that the repository has no points of: a policy for a name that is mistyped would look as if it had been applied.
func (o *opened) known(ctx context.Context, vm string) error {
	for p, err := range o.Points(ctx, vm) {
		if err == nil && p.VM == vm {
			return nil
		}
	}
	return &outcome.Error{Kind: outcome.KindNotFound, Object: vm, Text: fmt.Sprintf("the repository has no points of VM %s", vm),
		Hint: "`hikae points --repo REPO` lists what there is. Nothing was taken away."}
}

func (t *tool) forgetNamed(ctx context.Context, r *opened, f *forgetFlags, points []string, doc *forgetDoc) error {
	var ids []string
	for _, spec := range points {
		p, err := r.Resolve(ctx, spec)
		if errors.Is(err, fs.ErrNotExist) {
			if left, ok := unfinishedNamed(ctx, r, spec); ok {
				p, err = left, nil
			}
		}
		if lost, ok := errors.AsType[*repo.PointError](err); ok && !strings.Contains(spec, "@") { // what cannot be read must not stay for ever
			p, err = pipe.PointInfo{ID: lost.Point}, nil
		}
		if err != nil {
			return err
		}
		ids = append(ids, p.ID)
		doc.Removed = append(doc.Removed, namedDecision(p))
	}
	if f.dryRun {
		return nil
	}
	note := f.note
	if note == "" {
		note = "named: " + strings.Join(points, " ")
	}
	return r.local.Forget(ctx, ids, note)
}

func namedDecision(p pipe.PointInfo) decision {
	return decision{ID: p.ID, VM: p.VM, Time: p.Time.UTC(), Reasons: []string{"it was named"}}
}

func (d forgetDoc) print(w *show.Printer, place string) error {
	if len(d.Kept) > 0 || d.DryRun {
		table := show.NewTable("", "POINT", "VM", "TIME", "WHY")
		for _, list := range []struct {
			word string
			of   []decision
		}{{"goes", d.Removed}, {"stays", d.Kept}} {
			for _, p := range list.of {
				why := strings.Join(p.Reasons, "; ")
				if p.Doubt != "" {
					why += " (" + p.Doubt + ")"
				}
				table.Row(list.word, p.ID[:min(12, len(p.ID))], p.VM, show.Time(p.Time), why)
			}
		}
		if err := table.Print(w); err != nil {
			return err
		}
	}
	if d.DryRun {
		return w.Printf("\n%d of %d points would go; this was a dry run.\n", len(d.Removed), len(d.Removed)+len(d.Kept))
	}
	if len(d.Removed) == 0 {
		return w.Printf("nothing goes: %d points stay\n", len(d.Kept))
	}
	return w.Printf("%s forgotten, %d stay\n  next: hikae prune --repo %s   frees their room\n", show.Count(len(d.Removed), "point"), len(d.Kept), outcome.Clean(place))
}
