package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

// copyFlags are which points are copied, and where.
type copyFlags struct {
	*access
	from  access
	peer  string
	limit string
}

func (t *tool) copyCommand() *cobra.Command {
	f := &copyFlags{from: access{prefix: "from-", variable: "HIKAE_FROM_PASSWORD"}}
	cmd := &cobra.Command{
		Use:   "copy --from REPO --repo REPO [POINT…]",
		Short: "Copy points into another repository",
		Long: text(`
Copy restore points from one repository into another: all of them, or those that are named. What the other repository holds
already is not stored again, and a point that was copied before is left alone, so that a copy that broke off is simply run
again. Either place may be behind a mover.

The points of a VM are kept in their order: one that is older than the newest there is not copied.

A copied point keeps its time, its configuration and the change ids of its disks: the next backup into the other
repository goes on from it.

Seeding: make the first backup of a large VM into a repository on a disk, ship the disk, and take it in on the
repository's machine with --for NAME, the name by which the distant machine is enrolled. Its points then count as that
machine's own, and its next backup sends over the line only what changed since.

The passphrase of --repo comes by HIKAE_PASSWORD, that of --from by HIKAE_FROM_PASSWORD, and so do the flags: --password-file
and --from-password-file.`),
		Example: example(`
hikae copy --from /backup/hikae --repo /mnt/usb/hikae web1@latest

# on the machine of the off-site repository
hikae copy --from /mnt/usb/hikae --repo /srv/hikae --for site-a`),
		Args: want("[POINT…]"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.from.repo, "from", "", "`REPO` to copy from (required)")
	f.from.secretFlags(cmd)
	flags.StringVar(&f.peer, "for", "", "take the points in as those of the enrolled machine `NAME`")
	flags.StringVar(&f.limit, "limit", "", "read no more than `RATE`, such as 100MiB/s or 400Mbit/s")
	if err := cmd.MarkFlagRequired("from"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.copy(ctx, f, args) })
	return cmd
}

// copyDoc is what copy prints for scripts.
type copyDoc struct {
	Points []job.Copied `json:"points"`
	Moved  int64        `json:"moved"`
	Stored int64        `json:"stored"`
}

func (t *tool) copy(ctx context.Context, f *copyFlags, specs []string) (*reply, error) {
	opts := job.CopyOptions{}
	if f.limit != "" {
		rate, err := parseRate(f.limit)
		if err != nil {
			return nil, err
		}
		limiter := pipe.NewLimiter(rate)
		opts.Wrap = func(_ string, img pipe.Image) pipe.Image { return pipe.Limit(img, limiter) }
	}
	from, err := t.open(ctx, &f.from, true)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if err := from.readable(); err != nil {
		return nil, err
	}
	to, err := t.open(ctx, f.access, false)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	if from.ID() == to.ID() {
		return nil, outcome.Usage("Name two repositories.", "%s and %s are the same repository", f.from.repo, f.repo)
	}
	left := &reply{}
	points, err := chosen(ctx, from, f.from.repo, specs, left)
	if err != nil {
		return nil, err
	}
	opts.Compression = to.params().Compression
	land, err := t.landingFor(ctx, f.peer, to, f.repo)
	if err != nil {
		return nil, err
	}
	progress := t.bars()
	defer progress.Close()
	opts.Events = progress.Event
	doc := copyDoc{Points: []job.Copied{}}
	opts.Fact = land.fact()
	for _, p := range points {
		one := opts
		if one.VM, err = land.vm(p.VM); err != nil {
			return nil, about(f.repo, "", err)
		}
		done, err := job.CopyPoint(ctx, land, from, p, &one)
		if late, ok := errors.AsType[*job.OlderError](err); ok && len(specs) == 0 { // all were asked for: the rest is not held up
			left.warnings = append(left.warnings, fmt.Sprintf("point %s was not copied: %v", short(p.ID), late))
			left.status = max(left.status, outcome.Warned)
			continue
		}
		if corrupt, ok := errors.AsType[*repo.ErrCorrupt](err); ok && len(specs) == 0 && (to.local == nil || to.local.Writable() == nil) {
			left.warnings = append(left.warnings, fmt.Sprintf("point %s of %s was not copied: %v", short(p.ID), outcome.Clean(p.VM), corrupt))
			left.status = outcome.Damaged
			continue
		}
		if err != nil {
			return nil, about(f.repo, "", err)
		}
		doc.Points = append(doc.Points, done)
		doc.Moved += done.Moved
		doc.Stored += done.Stored
	}
	left.doc, left.text = doc, doc.print
	return left, nil
}

// chosen are the points that are named, in the order of the place; all of them where none is.
func chosen(ctx context.Context, r *opened, where string, specs []string, left *reply) ([]pipe.PointInfo, error) {
	if len(specs) > 0 {
		var out []pipe.PointInfo
		for _, spec := range specs {
			p, err := findPoint(ctx, r, where, spec)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
		return out, nil
	}
	var out []pipe.PointInfo
	for p, err := range r.Points(ctx, "") {
		if left.unreadable(err) {
			continue
		}
		if err != nil {
			return nil, about(where, "list the points of "+where, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (d copyDoc) print(w *show.Printer) error {
	table := show.NewTable("VM", "FROM", "TO", ">MOVED", ">STORED")
	already := 0
	for _, p := range d.Points {
		if p.Already {
			already++
		}
		table.Row(outcome.Clean(p.VM), short(p.From), short(p.To), show.Size(p.Moved), show.Size(p.Stored))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	copied, were := "points", "were"
	if len(d.Points)-already == 1 {
		copied = "point"
	}
	if already == 1 {
		were = "was"
	}
	return w.Printf("\n%d %s copied, %d %s there already\n", len(d.Points)-already, copied, already, were)
}

// short is an id as people read it.
func short(id string) string { return id[:min(len(id), 12)] }
