package nbd

import (
	"errors"
	"os"
	"syscall"
)

// punch gives the room of a range back. A file system that cannot keeps it: the block's state is what counts.
func punch(f *os.File, off, n int64) error {
	const keepSize, punchHole = 1, 2
	for {
		err := syscall.Fallocate(int(f.Fd()), keepSize|punchHole, off, n)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EOPNOTSUPP):
			return nil
		}
		return err
	}
}
