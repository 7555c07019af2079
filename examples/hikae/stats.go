package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
)

func (t *tool) statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats --repo REPO",
		Short: "Show how full a repository is",
		Long: text(`
Show how many points and blocks a repository holds, and what deduplication and compression have saved.

  original  what all points would take if each were stored alone and plain
  unique    what is left of that when equal blocks are stored once
  stored    what that takes in the repository, compressed, without parity
  parity    what is kept to repair damage`),
		Example: example(`
hikae stats --repo /backup/hikae
hikae stats --repo /backup/hikae --json | jq .stored`),
		Args: want(),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.stats(ctx, a) })
	return cmd
}

// statsDoc is what stats prints for scripts. Sizes are bytes.
type statsDoc struct {
	Points   int   `json:"points"`
	Damaged  int   `json:"damaged,omitempty"` // of these, that cannot be read
	Blocks   int64 `json:"blocks"`
	Original int64 `json:"original"`
	Unique   int64 `json:"unique"`
	Stored   int64 `json:"stored"`
	Parity   int64 `json:"parity"`
}

func (t *tool) stats(ctx context.Context, a *access) (*reply, error) {
	r, err := t.openHere(ctx, a, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s, err := r.local.Stats(ctx)
	if err != nil {
		return nil, about(a.repo, "count what is stored", err)
	}
	doc := statsDoc(s)
	left := &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
		return w.Facts(
			"points", fmt.Sprint(doc.Points),
			"blocks", fmt.Sprint(doc.Blocks),
			"original", show.Size(doc.Original),
			"unique", fmt.Sprintf("%s (deduplication %s)", show.Size(doc.Unique), show.Ratio(doc.Original, doc.Unique)),
			"stored", fmt.Sprintf("%s (compression %s)", show.Size(doc.Stored), show.Ratio(doc.Unique, doc.Stored)),
			"parity", show.Size(doc.Parity),
			"saved", show.Ratio(doc.Original, doc.Stored+doc.Parity)+" in all",
		)
	}}
	if doc.Damaged > 0 {
		left.warnings, left.status = []string{fmt.Sprintf("%d of the points cannot be read, and count nothing here; `hikae verify` tells more", doc.Damaged)}, outcome.Warned
	}
	return left, nil
}
