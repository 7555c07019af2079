package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

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
hikae mover token --repo /srv/hikae site-a --out token
hikae mover serve --repo /srv/hikae --listen :7420

# on the machine with the disks
hikae mover enrol backup.example.org --token-file token
hikae backup --repo mover://backup.example.org/site-a --name web1 /vm/web1.qcow2`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.moverServeCommand(), t.moverTokenCommand(), t.moverEnrolCommand(), t.moverListCommand(), t.moverRevokeCommand(),
		t.moverPlacesCommand(), t.moverForgetCommand(), t.moverRotateCommand(), t.moverStatusCommand(), t.moverInstallCommand(), t.moverRemoveCommand())
	return cmd
}

// served is what a mover of this machine serves: a repository, or disk images. Each has its own key and book of peers.
type served struct {
	repo    string
	sources bool
	blind   bool
	proxy   bool

	// open is the repository where it is open already. The folder is then that of what the secret has opened; a header
	// alone is not believed.
	open *opened
}

func (s *served) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.repo, "repo", "", "`REPO` that the mover serves")
	cmd.Flags().BoolVar(&s.sources, "sources", false, "the mover serves disk images (hikae mover serve --source)")
	cmd.Flags().BoolVar(&s.blind, "blind", false, "the mover keeps REPO without being able to read it (hikae mover serve --blind)")
	cmd.Flags().BoolVar(&s.proxy, "proxy", false, "this machine is a guest interaction proxy (hikae proxy serve)")
	cmd.MarkFlagsMutuallyExclusive("repo", "sources", "proxy")
	cmd.MarkFlagsMutuallyExclusive("blind", "sources")
	cmd.MarkFlagsMutuallyExclusive("blind", "proxy")
	cmd.MarkFlagsOneRequired("repo", "sources", "proxy")
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
	case s.proxy:
		name = "proxy"
	case s.blind: // the repository may not be there yet
		folder, err := absolute(s.repo)
		if err != nil {
			return "", err
		}
		if !isURL(folder) {
			if folder, err = resolved(folder); err != nil {
				return "", err
			}
		}
		name = "blind-" + folderName(folder)
	case s.open != nil:
		if name, err = s.opened(ctx); err != nil {
			return "", err
		}
	case !s.sources:
		if name, err = t.identify(ctx, s.repo); err != nil {
			return "", err
		}
	}
	return filepath.Join(state, "movers", "for", name), nil
}

// resolved is a path without links, so that a folder has one name however it is reached. The end of it may not be there
// yet.
func resolved(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
		if parent, err = resolved(parent); err == nil {
			real = filepath.Join(parent, filepath.Base(path))
		}
	}
	return real, err
}

// opened is the id of the repository that is open. Where a look at its headers says another one, those who list, let in
// and revoke peers would use another book than the mover does: somebody has put a foreign header there.
func (s *served) opened(ctx context.Context) (string, error) {
	id := s.open.ID()
	said, err := repo.Identify(ctx, s.open.store)
	if err != nil {
		return "", about(s.repo, fmt.Sprintf("repository %s, which was opened as %s", s.repo, id), err)
	}
	if said != id {
		return "", about(s.repo, "", &repo.ErrCorrupt{Object: "header", Reason: fmt.Sprintf("it says that this is repository %s, and the secret has opened %s", said, id)})
	}
	return id, nil
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
