//go:build !windows

package hikae

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes a lock that lasts until f is closed, or its process ends in whatever way. It belongs to the open file:
// another open of the same name in this process does not have it.
func tryLock(f *os.File) (free bool, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	ctlErr := c.Control(func(fd uintptr) {
		for {
			if err = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
				return
			}
		}
	})
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, ctlErr
	}
	err = errors.Join(ctlErr, err)
	return err == nil, err
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) { // no such call on some network file systems
		return err
	}
	return nil
}

// removeOpen removes a file while it is locked, so that nobody takes it for a dead session's in between.
func removeOpen(f *os.File, path string) error { return errors.Join(os.Remove(path), f.Close()) }
