//go:build !windows

package service

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// closeFolder lets nobody but the owner in, who has to be root or us. A service that runs as root is only as good as the
// folder that its program lies in, and those above it.
func closeFolder(dir string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if err := unreplaceable(at, info, at == filepath.Clean(dir)); err != nil {
			return err
		}
		if at == filepath.Dir(at) {
			return os.Chmod(dir, 0o700)
		}
	}
}

// unreplaceable refuses a folder in which others could put something of theirs in the place of ours.
func unreplaceable(dir string, info fs.FileInfo, own bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: %w", dir, uid, fs.ErrPermission)
	}
	if !own && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others may replace what is in %s: %w", dir, fs.ErrPermission)
	}
	return nil
}
