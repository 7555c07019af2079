package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo"
)

func (t *tool) mendLogCommand() *cobra.Command {
	opts := &repo.MendLogOptions{}
	cmd := &cobra.Command{
		Use:   "mend-log --repo REPO [--dry-run] [--trust KEY]…",
		Short: "Go on where a record of the log is lost in all three of its places",
		Long: text(`
Each record of the log stands in three places. Where one is lost or damaged in all of them, nothing behind it can be proven, and nothing is
written any more. First look whether a backup of the store or another copy of it has the record: put back, it is worth more than
anything below.

This command gives it up. A record signed with the root key takes its place; it ties the records behind it to those before, and says
what the lost one said, as far as manifests and later records prove it. What was committed stays. A point of which it does not show
that it was forgotten is back. --dry-run tells all of that and writes nothing. Verify afterwards.

Where the lost record may have let a machine's key in, this command stops and tells the key: --trust says that you know it, --distrust
that you do not, and what it signed is then given up.

Exit status: 0 the log was whole, or what was lost could be had; 3 something is given up.`),
		Example: example(`
hikae repo mend-log --repo /backup/hikae --dry-run
hikae repo mend-log --repo /backup/hikae --note "disk failed on Monday"`),
		Args: want(),
	}
	a := repoFlags(cmd)
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "find out and tell, and write nothing")
	cmd.Flags().StringArrayVar(&opts.Trust, "trust", nil, "a machine's `KEY`, 64 hexadecimal digits, that the lost record may have let in")
	cmd.Flags().BoolVar(&opts.Distrust, "distrust", false, "go on without what is signed by keys that nobody is known to have let in")
	cmd.Flags().StringVar(&opts.Why, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.mendLog(ctx, a, opts) })
	return cmd
}

// mendLogDoc is what repo mend-log prints for scripts.
type mendLogDoc struct {
	repo.LogMending
	DryRun bool `json:"dryRun"`
}

func (t *tool) mendLog(ctx context.Context, a *access, opts *repo.MendLogOptions) (_ *reply, err error) {
	r, err := t.openHere(ctx, a, opts.DryRun)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	rep, err := r.local.MendLog(ctx, opts)
	if errors.Is(err, repo.ErrUnproven) {
		failed := &outcome.Error{Kind: outcome.KindCorrupt, Object: a.repo, Text: "mend the log", Err: err}
		for _, k := range rep.Unknown {
			failed.Hint += fmt.Sprintf("%d objects are signed with key %s. ", k.Records, k.Key)
		}
		failed.Hint += "Is a key one of your machines: --trust KEY. Are none of them: --distrust."
		return nil, failed
	}
	if err != nil {
		return nil, about(a.repo, "mend the log", err)
	}
	doc := mendLogDoc{rep, opts.DryRun}
	status := outcome.Done
	if len(rep.Gaps) > 0 {
		status = outcome.Warned
	}
	return &reply{doc: doc, status: status, loud: true, text: doc.print}, nil
}

func (d mendLogDoc) print(w *show.Printer) error {
	if len(d.Gaps) == 0 && len(d.Recovered) == 0 {
		return w.Printf("the log is whole: nothing to do\n")
	}
	for _, name := range d.Recovered {
		if err := w.Printf("put back: %s\n", name); err != nil {
			return err
		}
	}
	for _, g := range d.Gaps {
		done := "are given up"
		if d.DryRun {
			done = "would be given up"
		}
		if err := w.Printf("records %d to %d %s\n", g.First, g.Last, done); err != nil {
			return err
		}
		for _, s := range g.Found {
			if err := w.Printf("  %s\n", s); err != nil {
				return err
			}
		}
		for _, s := range g.Open {
			if err := w.Printf("  not known: %s\n", s); err != nil {
				return err
			}
		}
	}
	if d.DryRun {
		return w.Printf("\nNothing was written. Without --dry-run it is done.\n")
	}
	return w.Printf("\nLook at `hikae points` and run `hikae verify` now.\n")
}
