//go:build linux || darwin || freebsd

package diskfile

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// openFlags: a FIFO or a device that is swapped in between look and open must not make us wait.
const openFlags = unix.O_NONBLOCK | unix.O_CLOEXEC

// noFollow: a symbolic link that is swapped in is not followed.
const noFollow = unix.O_NOFOLLOW

// seekData is the first byte at or after off that may hold data, MaxInt64 where only a hole follows, and off itself
// where the file system does not know.
//
// The position of the open file moves, and nobody uses it: all reads are positioned.
func seekData(f *os.File, off int64) (int64, error) {
	at, err := seek(f, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return math.MaxInt64, nil
	case knowsNoHoles(err):
		return off, nil
	}
	return at, err
}

// seekHole is the first byte after off that is in a hole or past the end, MaxInt64 where the file system does not know.
func seekHole(f *os.File, off int64) (int64, error) {
	at, err := seek(f, off, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) || knowsNoHoles(err) {
		return math.MaxInt64, nil
	}
	return at, err
}

func knowsNoHoles(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS)
}

// seek goes by SyscallConn because File.Fd would put the file into blocking mode.
func seek(f *os.File, off int64, whence int) (at int64, err error) {
	ctlErr := control(f, func(fd int) { at, err = unix.Seek(fd, off, whence) })
	return at, errors.Join(ctlErr, err)
}

// control runs fn with the descriptor of f while f cannot be closed.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// syncDir makes the names in a folder durable.
func syncDir(dir *os.File) error {
	err := dir.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) { // some network file systems have no such call
		return nil
	}
	return err
}

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }
