package diskfile

import (
	"fmt"
	"io/fs"
	"os"
)

// Hold keeps a file or block device from being written to by QEMU, and by whoever else keeps its rules, until release
// is called or the process ends: a virtual machine that is started on it meanwhile says that it cannot lock its disk.
// Others may read it, and hold it too. A file that is open for writing is a *LockedError. On systems without such locks
// nothing is held, and no error is told.
//
// The error of release is that of closing; the file is free whatever it is. Release may be called again.
func Hold(path string) (release func() error, err error) {
	if err := checkKind(os.Stat(path)); err != nil {
		return nil, ioError("open", path, -1, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, ioError("open", path, -1, err)
	}
	if err := keepWritersOut(f, path); err != nil {
		f.Close()
		return nil, err
	}
	held := true
	return func() error {
		if !held {
			return nil
		}
		held = false
		unlock(f)
		if err := f.Close(); err != nil {
			return fmt.Errorf("release: %w", &fs.PathError{Op: "close", Path: path, Err: err})
		}
		return nil
	}, nil
}
