package diskvm

import (
	"errors"
	"fmt"
)

// ErrNoTracking is yielded by Changed for a disk that no list of changes was given for.
var ErrNoTracking = errors.New("disk files are not tracked, and no list of changes was given for this one")

// UsageError says that what the caller named cannot be meant.
type UsageError struct {
	What string // the argument, disk or file
	Why  string
}

func (e *UsageError) Error() string { return fmt.Sprintf("%s: %s", e.What, e.Why) }

func usage(what, format string, args ...any) error {
	return &UsageError{What: what, Why: fmt.Sprintf(format, args...)}
}

// LiveError says that a disk file is open for writing by somebody else, most likely by the running VM.
type LiveError struct {
	Path  string
	Owner string // in words
}

func (e *LiveError) Error() string {
	return fmt.Sprintf("%s is open for writing by %s", e.Path, e.Owner)
}

// Hint says what to do next.
func (e *LiveError) Hint() string {
	return "stop the VM, or back it up through its hypervisor; forced, the copy is of no one moment"
}
