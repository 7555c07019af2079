package diskfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// zeroRange makes a range read as zero without writing it where the file system or device can.
func zeroRange(f *os.File, off, n int64) error {
	for _, mode := range []uint32{
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
	} {
		var err error
		if ctlErr := control(f, func(fd int) { err = fallocate(fd, mode, off, n) }); ctlErr != nil {
			return ctlErr
		}
		if err == nil {
			return nil
		}
		// Devices want their sector size; some file systems know neither call. Writing zeros is always right.
		if !knowsNoHoles(err) {
			return err
		}
	}
	return writeZeros(f, off, n)
}

func fallocate(fd int, mode uint32, off, n int64) error {
	for {
		if err := unix.Fallocate(fd, mode, off, n); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// renameNew gives temp the new name without replacing anything.
func renameNew(dir *os.File, root *os.Root, temp, name string) error {
	var err error
	if ctlErr := control(dir, func(fd int) {
		err = unix.Renameat2(fd, temp, fd, name, unix.RENAME_NOREPLACE)
	}); ctlErr != nil {
		return ctlErr
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return linkNew(root, temp, name)
	}
	return err
}
