//go:build unix

package outcome

import (
	"errors"
	"syscall"
)

// isFull reports that a store has no room: stores hand out the system's own words for it.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
