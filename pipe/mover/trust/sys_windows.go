package trust

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// tryLock takes a lock that lasts until f is closed or its process ends.
func tryLock(f *os.File) (free bool, err error) {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err = windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// replace tries for a while: a file that somebody reads at the moment cannot be replaced here.
func replace(from, to string) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Rename(from, to)
		held := errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
		if !held || time.Now().After(end) {
			return err
		}
	}
}

// syncFolder: Windows has no call for it; NTFS keeps names in its own journal.
func syncFolder(string) error { return nil }

// giveTo: a new file has its folder's access list.
func giveTo(*os.File, string) error { return nil }

// openTo: who may use a file is in access lists here, and a new file has its folder's.
func openTo(fs.FileInfo, fs.FileMode) fs.FileMode { return 0 }
