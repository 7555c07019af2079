//go:build unix && !aix && !solaris

package replica

import (
	"errors"
	"os"
	"syscall"
)

var (
	errQuota   error = syscall.EDQUOT
	errTooMany error = syscall.EMFILE
)

// flock locks an open file, alone or beside others of its kind. It does not wait.
func flock(f *os.File, alone bool) (taken bool, err error) {
	how := syscall.LOCK_SH
	if alone {
		how = syscall.LOCK_EX
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// unflock gives a lock back at once, also where a program that is being started has the open file too.
func unflock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) } // closing gives back what is left

// syncDir makes durable which names are in a folder.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
