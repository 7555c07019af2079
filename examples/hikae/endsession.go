package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/repo"
)

func (t *tool) endSessionCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   "end-session --repo REPO NUMBER",
		Short: "End a session of another machine, though it shows signs of life",
		Long: text(`
Sessions that died are found out within a minute, by themselves. This is for one that lives and should not: it hangs, or its machine was
taken over. On a store that only one may write to, such a session keeps all others out. NUMBER is what errors and ` + "`hikae prune`" + ` name. Nothing
that it does from here on counts; points that it had made stay. A write-only client that does so again and again: take its key away.`),
		Example: example(`hikae repo end-session --repo /backup/hikae 4711 --note "web3 hangs"`),
		Args:    want("NUMBER"),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&why, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil || n == 0 {
			return nil, outcome.Usage("For instance 4711.", "%q is no number of a session", args[0])
		}
		return t.care(ctx, a, "end session "+args[0], "session "+args[0]+" is over", func(r *repo.Repository) error { return r.EndSession(ctx, n, why) })
	})
	return cmd
}
