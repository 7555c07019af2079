package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo"
)

// pruneFlags say how far a prune goes.
type pruneFlags struct {
	*access
	wait, unused, most, limit string
	dryRun                    bool
}

func (t *tool) pruneCommand() *cobra.Command {
	f := &pruneFlags{}
	cmd := &cobra.Command{
		Use:   "prune --repo REPO [--dry-run]",
		Short: "Free the room of points that were forgotten",
		Long: text(`
Remove what no restore point needs any more: of forgotten points, of backups that broke off, of copies. It may run beside backups
and restores, here and on other machines. Cut off at any moment it leaves nothing behind that the next one does not take up.

What a session that is still at work might need waits until that is over, and is reported as deferred; sessions that have died are
found within a minute and ended. Packs of which only a part is needed are written anew until no more than --max-unused of the
repository is dead weight.

Where anything cannot be read, nothing is removed: repair it first.`),
		Example: example(`
hikae prune --repo /backup/hikae --dry-run
hikae prune --repo /backup/hikae --wait 10m --limit 100MiB/s`),
		Args: want(),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be freed, and remove nothing")
	flags.StringVar(&f.wait, "wait", "", "wait up to `TIME`, such as 2m, for sessions that may need what goes; 0: not at all (default: until the dead are told from the living)")
	flags.StringVar(&f.unused, "max-unused", "5%", "`SHARE` of the packs' bytes that may stay although no point needs them; \"all\": write nothing anew")
	flags.StringVar(&f.most, "max-repack", "", "write no more than `SIZE` of packs anew in this run")
	flags.StringVar(&f.limit, "limit", "", "read no more than `RATE`, such as 100MiB/s or 400Mbit/s")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.prune(ctx, f) })
	return cmd
}

func (f *pruneFlags) options() (*repo.PruneOptions, error) {
	opts := &repo.PruneOptions{DryRun: f.dryRun}
	var err error
	if f.wait != "" {
		opts.Wait, err = time.ParseDuration(f.wait)
		if f.wait == "0" || err == nil && opts.Wait == 0 {
			opts.Wait, err = -1, nil
		}
		if err != nil || opts.Wait < -1 {
			return nil, outcome.Usage("For instance --wait 2m.", "--wait %s is not a time", f.wait)
		}
	}
	if opts.MaxUnused, err = parseUnused(f.unused); err != nil {
		return nil, err
	}
	if f.most != "" {
		if opts.MaxRepack, err = parseSize(f.most); err != nil || opts.MaxRepack <= 0 {
			return nil, outcome.Usage("For instance --max-repack 50GiB; --max-unused all writes nothing anew.", "--max-repack %s is not a size above 0", f.most)
		}
	}
	if f.limit != "" {
		opts.Rate, err = parseRate(f.limit)
	}
	return opts, err
}

// parseUnused reads a share that may be zero, or "all".
func parseUnused(s string) (float64, error) {
	if s == "all" {
		return -1, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !strings.HasSuffix(s, "%") || !(v >= 0 && v <= 100) {
		return 0, outcome.Usage("For instance --max-unused 5%.", "--max-unused %s is neither a share from 0%% to 100%% nor \"all\"", s)
	}
	return max(v, 1e-9), nil // zero stands for the default
}

// pruneDoc is what prune prints for scripts.
type pruneDoc struct {
	repo.PruneReport
	Seconds float64 `json:"seconds"`
}

// aboutPrune says what lets the next prune go on.
func aboutPrune(place string, err error) error {
	e := &outcome.Error{Text: "prune", Place: place, Err: err}
	if corrupt, ok := errors.AsType[*repo.ErrCorrupt](err); ok && !strings.HasPrefix(corrupt.Object, "log/") {
		e.Hint = fmt.Sprintf("Nothing is removed while a point needs what cannot be read. `hikae verify --repo %s` names those points: "+
			"mend them with --repair, or give them up with `hikae forget --repo %s` and their ids.", outcome.Clean(place), outcome.Clean(place))
	}
	return e
}

func (t *tool) prune(ctx context.Context, f *pruneFlags) (_ *reply, err error) {
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	r, err := t.openHere(ctx, f.access, f.dryRun)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	progress := t.bars()
	opts.Progress = func(p repo.PruneProgress) { progress.Set(p.Step, p.Done, p.Total) }
	report, err := r.local.Prune(ctx, opts)
	progress.Close()
	if err != nil {
		return nil, aboutPrune(f.repo, err)
	}
	doc := pruneDoc{report, float64(time.Since(start).Milliseconds()) / 1000}
	left := &reply{doc: doc, loud: f.dryRun, text: func(w *show.Printer) error { return doc.print(w) }}
	for _, s := range report.Stopped {
		left.status = outcome.Warned
		left.warnings = append(left.warnings, fmt.Sprintf("of the write-only client with key %s… nothing was removed: %s", s.Writer[:min(8, len(s.Writer))], s.Reason))
	}
	if n := len(report.Unreadable); n > 0 {
		left.status = outcome.Warned
		left.warnings = append(left.warnings, fmt.Sprintf("%d packs cannot be read and stay: `hikae verify --repair` says what they are", n))
	}
	for _, wait := range report.Waits {
		left.notes = append(left.notes, fmt.Sprintf("session %d (%s) has not ended, and what it may need stays: a later prune removes it", wait.Lease, wait.Access))
	}
	if n := len(report.Locked); n > 0 {
		left.notes = append(left.notes, fmt.Sprintf("%d objects are locked by the store and stay until their time is over", n))
	}
	return left, nil
}

func (d pruneDoc) print(w *show.Printer) error {
	removed, freed := "removed", "freed"
	if d.DryRun {
		removed, freed = "would go", "would be freed"
	}
	facts := []string{removed, fmt.Sprintf("%d objects", d.Deleted), freed, show.Size(d.Freed)}
	if d.Deferred > 0 {
		facts = append(facts, "deferred", fmt.Sprintf("%d objects, %s", d.Deferred, show.Size(d.DeferredBytes)))
	}
	if d.Repacked > 0 {
		facts = append(facts, "written anew", fmt.Sprintf("%d packs, %s", d.Repacked, show.Size(d.Written)))
	}
	if d.Rescued > 0 {
		facts = append(facts, "taken back", fmt.Sprintf("%d objects that a new point needs", d.Rescued))
	}
	facts = append(facts, "stay", fmt.Sprintf("%d packs, %s, of which no point needs %s", d.Kept, show.Size(d.KeptBytes), show.Size(d.Unused)))
	return w.Facts(facts...)
}
