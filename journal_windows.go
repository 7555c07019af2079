package hikae

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockOffset is far behind any content: locks are mandatory here, and what lies under one cannot be read.
const lockOffset = 1 << 30

// tryLock takes a lock that lasts until f is closed, or its process ends in whatever way.
func tryLock(f *os.File) (free bool, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	ctlErr := c.Control(func(fd uintptr) {
		const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
		err = windows.LockFileEx(windows.Handle(fd), flags, 0, 1, 0, &windows.Overlapped{Offset: lockOffset})
	})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, ctlErr
	}
	err = errors.Join(ctlErr, err)
	return err == nil, err
}

// syncFolder: Windows has no call for it; NTFS keeps names in its own journal.
func syncFolder(string) error { return nil }

// removeOpen closes first: an open file cannot be removed here.
func removeOpen(f *os.File, path string) error { return errors.Join(f.Close(), os.Remove(path)) }
