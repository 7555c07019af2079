//go:build !linux && !darwin && !freebsd

package diskfile

import (
	"errors"
	"math"
	"os"
	"syscall"
)

const (
	openFlags = 0
	noFollow  = 0
)

// seekData knows no holes here: all is data.
func seekData(_ *os.File, off int64) (int64, error) { return off, nil }

func seekHole(*os.File, int64) (int64, error) { return math.MaxInt64, nil }

func isNoSpace(err error) bool {
	const (
		handleDiskFull = syscall.Errno(39)
		diskFull       = syscall.Errno(112)
	)
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, handleDiskFull) || errors.Is(err, diskFull)
}

// syncDir: a folder cannot be synced here, and the journal of the file system keeps names in order.
func syncDir(*os.File) error { return nil }

func isBusy(error) bool { return false }
