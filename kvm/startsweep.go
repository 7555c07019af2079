package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hikae/hikae"
)

// KindStart is the kind of the effect of a start: the files that it makes in a folder.
const KindStart = "kvm.start"

// StartSweeper undoes what a start left that was killed before anybody got the disks. A VM that has them keeps them: they
// hold what it wrote. It waits for [Resume].
type StartSweeper struct{}

var _ hikae.Sweeper = StartSweeper{}

// Undo implements [hikae.Sweeper].
func (StartSweeper) Undo(_ context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	dir := e.Facts["folder"]
	if e.Kind != KindStart || !filepath.IsAbs(dir) {
		return fmt.Errorf("effect %s of %s: %w: folder %q", e.ID, e.Kind, fs.ErrInvalid, dir)
	}
	f, err := openStartFolder(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer f.unlock()
	if f.state.Stage != stageMade {
		return nil
	}
	if err := f.discard(); err != nil {
		return err
	}
	os.Remove(dir) // only where nothing of others is in it
	return nil
}
