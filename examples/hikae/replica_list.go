package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/pipe"
)

// replicaListDoc is what list prints for scripts.
type replicaListDoc struct {
	Site     string         `json:"site"`
	Replicas []replicaEntry `json:"replicas"`
}

type replicaEntry struct {
	VM       string            `json:"vm"`
	Stage    replica.Stage     `json:"stage"`
	Running  string            `json:"running"` // by what it runs; empty: it does not
	Since    time.Time         `json:"since,omitzero"`
	From     string            `json:"from,omitempty"` // the point that it runs from
	UnderWay *replica.UnderWay `json:"underWay,omitempty"`
	Age      float64           `json:"age"` // seconds: of the newest point
	Points   []pipe.PointInfo  `json:"points"`
	Damaged  []string          `json:"damaged"`
	Runs     *replicaRuns      `json:"runs,omitempty"`
}

func (t *tool) replicaListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list SITE",
		Short:   "List the replicas of a site: their points, how old they are, and where each stands",
		Example: example(`hikae replica list /srv/replicas --json`),
		Args:    want("SITE"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.replicaList(ctx, args[0]) })
	return cmd
}

func (t *tool) replicaList(ctx context.Context, dir string) (_ *reply, err error) {
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	vms, err := site.VMs(ctx)
	if err != nil {
		return nil, err
	}
	doc, left := replicaListDoc{Site: site.Dir(), Replicas: []replicaEntry{}}, &reply{loud: true}
	for _, vm := range vms {
		e, err := t.replicaEntry(ctx, site, vm)
		if err != nil {
			return nil, err
		}
		if len(e.Damaged) > 0 {
			left.status, left.warnings = outcome.Damaged, append(left.warnings, prefixed(vm, e.Damaged)...)
		}
		doc.Replicas = append(doc.Replicas, e)
	}
	left.doc, left.text = doc, doc.print
	return left, nil
}

func (t *tool) replicaEntry(ctx context.Context, site *replicaSite, vm string) (replicaEntry, error) {
	e := replicaEntry{VM: vm, Points: []pipe.PointInfo{}, Damaged: []string{}}
	state, under, err := site.of(t, vm, 0).State(ctx)
	if err != nil {
		return e, site.explain(vm, err)
	}
	e.Stage, e.Since, e.From, e.UnderWay = state.Stage, state.Since, state.Point, under
	if e.Running, err = site.Running(ctx, vm); err != nil {
		e.Running = "unknown: " + err.Error()
	}
	for p, err := range site.Points(ctx, vm) {
		switch {
		case err == nil:
			e.Points = append(e.Points, p)
		case job.IsDamaged(err):
			e.Damaged = append(e.Damaged, err.Error())
		default:
			return e, err
		}
	}
	if n := len(e.Points); n > 0 {
		e.Age = time.Since(e.Points[n-1].Time).Seconds()
	}
	e.Runs = site.runs(ctx, vm)
	return e, nil
}

func (d replicaListDoc) print(w *show.Printer) error {
	if len(d.Replicas) == 0 {
		return w.Printf("there are no replicas in %s\n", d.Site)
	}
	table := show.NewTable("VM", "STATE", ">POINTS", "NEWEST", ">AGE", "CONSISTENCY", ">SIZE")
	for _, e := range d.Replicas {
		state, size := string(e.Stage), int64(0)
		if e.UnderWay != nil && e.UnderWay.Step != "running" {
			state = e.UnderWay.What + ": " + e.UnderWay.Step
		}
		if e.Running != "" {
			state += ", runs"
		}
		for _, p := range e.Points {
			size += p.New
		}
		newest := pipe.PointInfo{}
		if n := len(e.Points); n > 0 {
			newest = e.Points[n-1]
		}
		table.Row(outcome.Clean(e.VM), state, fmt.Sprint(len(e.Points)), short(newest.ID), show.Seconds(e.Age), newest.Consistency, show.Size(size))
	}
	return table.Print(w)
}

func (t *tool) replicaCheckCommand() *cobra.Command {
	deep := false
	cmd := &cobra.Command{
		Use:   "check SITE [VM…]",
		Short: "Look for damage in replicas",
		Long: text(`
See that the files of all points are there and stand on one another as they should. --deep reads all of them, and compares what they hold
with the sums that were kept when it was written. Damage is exit status 4; a newer point may stand on it.`),
		Example: example(`hikae replica check /srv/replicas --deep`),
		Args:    want("SITE", "[VM…"),
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "read all")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaCheck(ctx, args[0], args[1:], deep)
	})
	return cmd
}

// replicaDamage is what check found.
type replicaDamage struct {
	VM    string `json:"vm"`
	Point string `json:"point"`
	Disk  string `json:"disk"`
	What  string `json:"what"`
}

type replicaCheckDoc struct {
	Checked []string        `json:"checked"`
	Damaged []replicaDamage `json:"damaged"`
}

func (t *tool) replicaCheck(ctx context.Context, dir string, vms []string, deep bool) (_ *reply, err error) {
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if len(vms) == 0 {
		if vms, err = site.VMs(ctx); err != nil {
			return nil, err
		}
	}
	doc := replicaCheckDoc{Checked: []string{}, Damaged: []replicaDamage{}}
	left := &reply{loud: true}
	for _, vm := range vms {
		if err := site.known(ctx, vm); err != nil {
			return nil, err
		}
		found, err := site.Check(ctx, vm, deep)
		if err != nil {
			return nil, site.explain(vm, err)
		}
		doc.Checked = append(doc.Checked, vm)
		for _, d := range found {
			doc.Damaged = append(doc.Damaged, replicaDamage{vm, d.Point, d.Disk, d.Err.Error()})
			left.status = outcome.Damaged
			left.warnings = append(left.warnings, vm+": "+d.Err.Error())
		}
	}
	left.doc, left.text = doc, func(w *show.Printer) error {
		return w.Printf("%s looked at, %s\n", show.Count(len(doc.Checked), "replica"), show.Count(len(doc.Damaged), "damage"))
	}
	return left, nil
}

func (t *tool) replicaKeepCommand() *cobra.Command {
	n := 0
	cmd := &cobra.Command{
		Use:     "keep SITE VM --points N",
		Short:   "Merge a replica's oldest points, until N are left",
		Example: example(`hikae replica keep /srv/replicas web1 --points 2`),
		Args:    want("SITE", "VM"),
	}
	cmd.Flags().IntVar(&n, "points", 0, "`N`, from 1 to 30 (required)")
	if err := cmd.MarkFlagRequired("points"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaKeep(ctx, args[0], args[1], n)
	})
	return cmd
}

type replicaKeepDoc struct {
	VM     string   `json:"vm"`
	Merged []string `json:"merged"`
}

func (t *tool) replicaKeep(ctx context.Context, dir, vm string, n int) (_ *reply, err error) {
	if n < 1 || n > 30 {
		return nil, outcome.Usage("", "--points %d: 1 to 30", n)
	}
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if err := site.known(ctx, vm); err != nil {
		return nil, err
	}
	merged, err := site.Keep(ctx, vm, n)
	if err != nil {
		return nil, site.explain(vm, err)
	}
	return &reply{doc: replicaKeepDoc{vm, append([]string{}, merged...)}, text: func(w *show.Printer) error {
		return w.Printf("points of %s that were merged into newer ones: %d\n", vm, len(merged))
	}}, nil
}

func (t *tool) replicaRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove SITE VM",
		Short:   "Remove a replica with all its points",
		Long:    text(`Remove a replica with all its points. One that is failed over is refused: undo that first.`),
		Example: example(`hikae replica remove /srv/replicas web1`),
		Args:    want("SITE", "VM"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaRemove(ctx, args[0], args[1])
	})
	return cmd
}

func (t *tool) replicaRemove(ctx context.Context, dir, vm string) (_ *reply, err error) {
	site, err := t.openSite(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if err := site.known(ctx, vm); err != nil {
		return nil, err
	}
	_, under, err := site.of(t, vm, 0).State(ctx)
	if err == nil && under != nil {
		err = &replica.UnderWayError{VM: vm, What: under.What, Step: under.Step, Begun: under.Begun}
	}
	if err == nil {
		err = site.Remove(ctx, vm)
	}
	if err != nil {
		return nil, site.explain(vm, err)
	}
	return &reply{doc: map[string]string{"removed": vm}, text: func(w *show.Printer) error { return w.Printf("the replica of %s is gone\n", vm) }}, nil
}
