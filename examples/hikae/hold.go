package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/show"
)

func (t *tool) holdCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "hold --repo REPO POINT… [--note TEXT]",
		Short: "Keep restore points, whatever a policy says",
		Long: text(`
Keep restore points until ` + "`hikae unhold`" + `: no policy takes them away, and neither does forget by name. Anybody who can open the
repository can take a hold away again; against that, store objects where they are locked.`),
		Example: example(`
hikae hold --repo /backup/hikae web1@latest --note "before the migration"`),
		Args: want("POINT…"),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` that says why")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.hold(ctx, a, args, note, true) })
	return cmd
}

func (t *tool) unholdCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:     "unhold --repo REPO POINT…",
		Short:   "Let a held restore point go again, when its time comes",
		Long:    text(`Take the hold of restore points away. They stay until a policy or somebody by name lets them go.`),
		Example: example(`hikae unhold --repo /backup/hikae 4f1d09c2a77e`),
		Args:    want("POINT…"),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.hold(ctx, a, args, note, false) })
	return cmd
}

// holdDoc is what hold and unhold print for scripts.
type holdDoc struct {
	Points []string `json:"points"`
	Held   bool     `json:"held"`
}

func (t *tool) hold(ctx context.Context, a *access, points []string, note string, on bool) (_ *reply, err error) {
	r, err := t.openHere(ctx, a, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	doc := holdDoc{Held: on}
	for _, spec := range points {
		p, err := r.Resolve(ctx, spec)
		if err != nil {
			return nil, about(a.repo, "find point "+spec, err)
		}
		doc.Points = append(doc.Points, p.ID)
	}
	change, word := r.local.Unhold, "not held any more"
	if on {
		change, word = r.local.Hold, "held"
	}
	if err := change(ctx, doc.Points, note); err != nil {
		return nil, about(a.repo, "hold", err)
	}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("%s %s\n", show.Count(len(doc.Points), "point"), word)
	}}, nil
}
