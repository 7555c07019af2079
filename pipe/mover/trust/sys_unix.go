//go:build !windows

package trust

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tryLock takes a lock that lasts until f is closed or its process ends. It belongs to the open file, so that it also
// holds between goroutines that have each opened it.
func tryLock(f *os.File) (free bool, err error) {
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func replace(from, to string) error { return os.Rename(from, to) }

// syncFolder makes the names in a folder durable. Some network file systems have no such call.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// giveTo gives a file that root made to the owner of its folder.
func giveTo(f *os.File, dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// openTo are those of the permission bits that a file has.
func openTo(fi fs.FileInfo, bits fs.FileMode) fs.FileMode { return fi.Mode().Perm() & bits }
