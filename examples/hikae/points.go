package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

func (t *tool) pointsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "points --repo REPO [VM]",
		Short: "List restore points",
		Long: text(`
List the restore points of a repository, or of one VM, in the order in which they were made.

A point is named by its id, by the first digits of it as long as they fit no other, or as VM@latest, VM@latest~1 for the
one before, and so on. NEW is what was stored for that point alone; a machine
that may only append is not told (-, in JSON 0), because it would show what others have stored.

BOOTS is there once a point was started by a boot check from this machine: yes or no, as the last one found; - is not tried. In
JSON it is "boot", with its time and session.

With --all also what sessions left that did not commit: no points, and nothing restores them. The VM's next backup goes on
from there, and then they are gone; forget takes one away by its id.`),
		Example: example(`
hikae points --repo /backup/hikae
hikae points --repo /backup/hikae web1 --json | jq -r '.points[-1].id'`),
		Args: want("[VM]"),
	}
	a := repoFlags(cmd)
	all := cmd.Flags().Bool("all", false, "also what is unfinished")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		vm := ""
		if len(args) > 0 {
			vm = args[0]
		}
		return t.points(ctx, a, vm, *all)
	})
	return cmd
}

// pointsDoc is what points prints for scripts.
type pointsDoc struct {
	Points []pointDoc `json:"points"`
	// Unfinished are no points: with --all.
	Unfinished []unfinishedDoc `json:"unfinished,omitempty"`
}

// pointDoc is one point, with what this machine knows of it.
type pointDoc struct {
	pipe.PointInfo
	Boot *bootMark `json:"boot,omitempty"` // of its last boot check on this machine
}

// bootMark says whether a point was seen to boot.
type bootMark struct {
	Passed  bool      `json:"passed"`
	Time    time.Time `json:"time"`
	Session string    `json:"session"`
}

// bootMarks are the last boot checks of points, by their ids, as the sessions of this machine have them. One in which nothing
// was started says nothing.
func (t *tool) bootMarks() (map[string]*bootMark, error) {
	sessions, err := t.sessions()
	if err != nil {
		return nil, err
	}
	marks := map[string]*bootMark{}
	_, err = sessions.List(1, func(r *job.Record) bool { // newest first
		if b := r.Boot; b != nil && len(b.Checks) > 0 && marks[b.Point] == nil {
			marks[b.Point] = &bootMark{Passed: b.Passed, Time: b.Started.UTC(), Session: b.Session}
		}
		return false // a record has a picture of the screen: none is kept
	})
	return marks, err
}

// word is the mark in a table.
func (b *bootMark) word() string {
	switch {
	case b == nil:
		return "-"
	case b.Passed:
		return "yes"
	}
	return "no"
}

// unfinishedDoc is what a session left that did not commit.
type unfinishedDoc struct {
	ID      string    `json:"id"`
	VM      string    `json:"vm"`
	Time    time.Time `json:"time"`
	Base    string    `json:"base,omitempty"`
	Size    int64     `json:"size"`    // of its disks
	Pending int64     `json:"pending"` // bytes that were to be read and were not
}

// unfinished lists what sessions of a VM left.
func unfinished(ctx context.Context, place pipe.Backend, vm string) (list []unfinishedDoc, err error) {
	r, ok := pipe.ResumerOf(place)
	if !ok {
		return nil, nil
	}
	for p, err := range r.Unfinished(ctx, vm) {
		if err != nil {
			return nil, err
		}
		u := unfinishedDoc{ID: p.ID, VM: p.VM, Time: p.Time.UTC(), Base: p.Base}
		for _, d := range p.Disks {
			u.Size += d.Size
		}
		for _, ranges := range p.Pending {
			for _, e := range ranges {
				u.Pending += e.Len
			}
		}
		list = append(list, u)
	}
	return list, nil
}

// unfinishedNamed finds what a session left by its id or the first digits of it, where they fit no other.
func unfinishedNamed(ctx context.Context, place pipe.Backend, spec string) (found pipe.PointInfo, ok bool) {
	r, resumes := pipe.ResumerOf(place)
	if !resumes || len(spec) < 4 {
		return found, false
	}
	for p, err := range r.Unfinished(ctx, "") {
		if err != nil {
			return found, false
		}
		if strings.HasPrefix(p.ID, strings.ToLower(spec)) {
			if ok {
				return found, false
			}
			found, ok = p.PointInfo, true
		}
	}
	return found, ok
}

func (t *tool) points(ctx context.Context, a *access, vm string, all bool) (*reply, error) {
	r, err := t.open(ctx, a, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.ownName(vm); err != nil {
		return nil, err
	}
	doc, left := pointsDoc{Points: []pointDoc{}}, &reply{loud: true}
	marks, err := t.bootMarks()
	if err != nil {
		left.warnings = append(left.warnings, fmt.Sprintf("what boot checks found is not known for all points: %v", err))
	}
	for p, err := range r.Points(ctx, vm) {
		if left.unreadable(err) {
			continue
		}
		if err != nil {
			return nil, about(a.repo, "list points", err)
		}
		p.Time = p.Time.UTC()
		doc.Points = append(doc.Points, pointDoc{PointInfo: p, Boot: marks[p.ID]})
	}
	if all {
		if doc.Unfinished, err = unfinished(ctx, r, vm); err != nil {
			return nil, about(a.repo, "list unfinished points", err)
		}
	}
	left.doc, left.text = doc, func(w *show.Printer) error { return doc.print(w, r.appends()) }
	return left, nil
}

// unreadable reports whether an error of a listing is about one point alone, and says so: the others are listed all the
// same.
func (r *reply) unreadable(err error) bool {
	damaged, ok := errors.AsType[*repo.PointError](err)
	if ok {
		r.warnings = append(r.warnings, fmt.Sprintf("point %s cannot be read: %v", damaged.Point, damaged.Err))
		r.status = outcome.Damaged
	}
	return ok
}

// print lists the points. What is new in each is not told to a machine that may only append: it would show what others
// have.
func (d pointsDoc) print(w *show.Printer, withheld bool) error {
	for _, u := range d.Unfinished {
		if err := w.Printf("unfinished: %s of %s, %s: %s of %s pending\n", u.ID[:12], u.VM, show.Time(u.Time), show.Size(u.Pending), show.Size(u.Size)); err != nil {
			return err
		}
	}
	if len(d.Points) == 0 {
		return w.Printf("no points\n")
	}
	head := []string{"POINT", "VM", "TIME", ">DISKS", ">SIZE", ">DATA", ">NEW", "CONSISTENCY"}
	marked := slices.ContainsFunc(d.Points, func(p pointDoc) bool { return p.Boot != nil })
	if marked {
		head = slices.Insert(head, len(head)-1, "BOOTS")
	}
	table := show.NewTable(head...)
	infos := make([]pipe.PointInfo, len(d.Points))
	for i, p := range d.Points {
		infos[i] = p.PointInfo
	}
	short := shortIDs(infos)
	for i, p := range d.Points {
		size, data := int64(0), int64(0)
		for _, disk := range p.Disks {
			size += disk.Size
			data += disk.Data
		}
		news := show.Size(p.New)
		if withheld && p.New == 0 {
			news = "-"
		}
		consistency := p.Consistency
		if p.Held != "" {
			consistency += "; held: " + p.Held
		}
		row := []string{short[i], p.VM, show.Time(p.Time), fmt.Sprint(len(p.Disks)), show.Size(size), show.Size(data), news, consistency}
		if marked {
			row = slices.Insert(row, len(row)-1, p.Boot.word())
		}
		table.Row(row...)
	}
	return table.Print(w)
}

// shortIDs are the ids cut to the shortest length, of at least twelve digits, at which they all differ.
func shortIDs(points []pipe.PointInfo) []string {
	for n := 12; ; n++ {
		seen, out, whole := map[string]bool{}, make([]string, len(points)), true
		for i, p := range points {
			out[i] = p.ID[:min(n, len(p.ID))]
			whole = whole && n >= len(p.ID)
			seen[out[i]] = true
		}
		if len(seen) == len(points) || whole {
			return out
		}
	}
}
