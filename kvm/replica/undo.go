package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hikae/hikae"
)

// Undo ends a failover: what the VM wrote is discarded, and the replica is Ready again. A seal that has begun is undone too,
// unless its point is there already. A VM that runs is a [*hikae.BusyError]; a replica that is Ready stays so.
func (s *Site) Undo(ctx context.Context, vm string) (err error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return err
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := takeLock(dir, vm, "undo a failover")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	st, err := loadState(dir, vm)
	if err != nil {
		return err
	}
	if st.Stage == Ready {
		return s.tidy(dir)
	}
	if err := st.mustBeOff(ctx); err != nil {
		return err
	}
	if err := s.discardRun(dir, st); err != nil {
		return err
	}
	return s.tidy(dir)
}

// Sweeper undoes what a failover left that was killed before anybody got its files. A VM that has them keeps them.
type Sweeper struct{}

var _ hikae.Sweeper = Sweeper{}

// Undo implements [hikae.Sweeper].
func (Sweeper) Undo(_ context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	dir := e.Facts["site"]
	if e.Kind != KindFailover || !filepath.IsAbs(dir) || checkVM(e.VM) != nil {
		return fmt.Errorf("effect %s of %s: %w: site %q", e.ID, e.Kind, fs.ErrInvalid, dir)
	}
	if _, err := os.Lstat(filepath.Join(dir, siteFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := &Site{dir: dir, warn: func(string) {}, step: func(string) {}}
	if _, err := os.Lstat(s.folder(e.VM)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.tidyFolder(s.folder(e.VM))
}
