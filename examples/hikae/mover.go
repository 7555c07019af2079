package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
)

func (t *tool) moverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mover",
		Short: "Backups across a LAN or a WAN",
		Long: text(`
A mover lets other machines bring their backups to a repository on this one, over any line: blocks travel only where the
repository lacks them, encoded and encrypted, over as many connections as the line needs; a line that is cut for less
than half an hour is taken up again where it broke off.

Machines know each other by keys. A machine is enrolled once, by a token that is carried to it by hand; from then on the
repository is called mover://HOST/NAME there, and every command takes that for REPO.`),
		Example: example(`
# on the repository's machine
hikae mover token --repo /srv/hikae site-a > token
hikae mover serve --repo /srv/hikae --listen :7420

# on the machine with the disks
hikae mover enrol backup.example.org --token-file token
hikae backup --repo mover://backup.example.org/site-a --name web1 /vm/web1.qcow2`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.moverServeCommand(), t.moverTokenCommand(), t.moverEnrolCommand(), t.moverListCommand(), t.moverRevokeCommand(),
		t.moverRotateCommand(), t.moverStatusCommand(), t.moverInstallCommand(), t.moverRemoveCommand())
	return cmd
}

// served is what a mover of this machine serves: a repository, or disk images. Each has its own key and book of peers.
type served struct {
	repo    string
	sources bool
	blind   bool
}

func (s *served) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.repo, "repo", "", "`REPO` that the mover serves")
	cmd.Flags().BoolVar(&s.sources, "sources", false, "the mover serves disk images (hikae mover serve --source)")
	cmd.Flags().BoolVar(&s.blind, "blind", false, "the mover keeps REPO without being able to read it (hikae mover serve --blind)")
	cmd.MarkFlagsMutuallyExclusive("repo", "sources")
	cmd.MarkFlagsMutuallyExclusive("blind", "sources")
	cmd.MarkFlagsOneRequired("repo", "sources")
}

// dir is the folder with the key and the book. It is the repository's by its id, so that a repository that was moved
// still knows who may come.
func (s *served) dir(ctx context.Context, t *tool) (string, error) {
	state, err := t.stateDir()
	if err != nil {
		return "", err
	}
	name := "sources"
	switch {
	case s.blind: // the repository may not be there yet
		folder, err := absolute(s.repo)
		if err != nil {
			return "", err
		}
		name = "blind-" + folderName(folder)
	case !s.sources:
		if name, err = t.identify(ctx, s.repo); err != nil {
			return "", err
		}
	}
	return filepath.Join(state, "movers", "for", name), nil
}

// identify tells the id of the repository in a folder; no secret is needed for that.
func (t *tool) identify(ctx context.Context, folder string) (string, error) {
	if err := checkFolder(folder); err != nil {
		return "", err
	}
	st, err := t.openStore(ctx, folder)
	if err != nil {
		return "", about(folder, "open repository "+folder, noRepository(err))
	}
	defer st.Close()
	id, err := repo.Identify(ctx, st)
	if err != nil {
		return "", about(folder, "open repository "+folder, err)
	}
	return id, nil
}

// book opens the key and the book of peers of what is served.
func (s *served) book(ctx context.Context, t *tool) (*trust.Identity, *trust.Book, error) {
	dir, err := s.dir(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	id, err := trust.LoadIdentity(dir)
	if err != nil {
		return nil, nil, about(dir, "the mover's key", err)
	}
	book, err := trust.OpenBook(dir)
	if err != nil {
		return nil, nil, about(dir, "the mover's book of peers", err)
	}
	return id, book, nil
}
