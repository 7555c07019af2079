package hikae

import (
	"errors"
	"fmt"
)

// ErrTrackingLost says that a hypervisor can no longer tell what changed since a ChangeID. It is a normal answer: the
// caller reads the whole disk, and the point after that is incremental again.
var ErrTrackingLost = errors.New("change tracking was lost")

// ErrThawedEarly is wrapped by Quiescer.Thaw where the guest is thawed and had been before it was asked to: by its own
// watchdog, or by somebody else. What was pinned meanwhile is good after a power cut, and promises no more.
var ErrThawedEarly = errors.New("it was not frozen any more when it was to be thawed")

// QuiesceError says at which stage quiescing a guest failed.
type QuiesceError struct {
	Stage string // find, freeze, snapshot, thaw
	Err   error
}

func (e *QuiesceError) Error() string { return fmt.Sprintf("quiesce: %s: %v", e.Stage, e.Err) }
func (e *QuiesceError) Unwrap() error { return e.Err }

// BusyError says that somebody else is at work on the same thing.
type BusyError struct {
	What  string // the VM or object
	Owner string // who, in words
}

func (e *BusyError) Error() string { return fmt.Sprintf("%s is in use by %s", e.What, e.Owner) }
