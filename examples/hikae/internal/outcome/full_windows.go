package outcome

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isFull reports that a store has no room: stores hand out the system's own words for it.
func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
