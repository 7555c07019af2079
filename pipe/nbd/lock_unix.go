//go:build unix && !aix && !solaris

package nbd

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrInUse is wrapped where a scratch file belongs to another program, or to another overlay of this one.
var ErrInUse = errors.New("the scratch file is in use")

func lockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return err
}
