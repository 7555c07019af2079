package hyperv

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae"
)

// AbsentError says that something which a VM is to be made in or on is not there, and what is.
type AbsentError struct {
	What  string // switch, host, folder
	Name  string
	There []string // at most 50
	Hint  string   // may be empty
}

func (e *AbsentError) Error() string {
	text := fmt.Sprintf("%s %q is not there", e.What, e.Name)
	if e.Name == "" {
		text = "which " + e.What + " is not said"
	}
	if len(e.There) > 0 {
		text += "; there are: " + strings.Join(e.There, ", ")
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

func (e *AbsentError) Unwrap() error { return fs.ErrNotExist }

// RoomError says that there is no room for a new VM's disks.
type RoomError struct {
	Folder     string
	Need, Free int64 // bytes
}

func (e *RoomError) Error() string {
	return fmt.Sprintf("%s has %d bytes free, and fixed disks need %d", e.Folder, e.Free, e.Need)
}

// RunningError says that a VM must be off to be written over, and is not.
type RunningError struct {
	VM    string
	State State
}

func (e *RunningError) Error() string {
	if e.State == Saved || e.State == savedToo {
		return fmt.Sprintf("VM %s is saved, and would go on with what is in its memory; it must be off to be restored in place", e.VM)
	}
	return fmt.Sprintf("VM %s is %s; it must be off to be restored in place", e.VM, e.State)
}

// Unwrap makes it what all providers say where somebody else is at work.
func (e *RunningError) Unwrap() error {
	return &hikae.BusyError{What: "VM " + e.VM, Owner: "its guest"}
}

// Hint is what a person can do about it.
func (e *RunningError) Hint() string { return "Shut the guest down, then restore again." }

// CheckpointsError says that a VM has checkpoints, and is not written over because of them.
type CheckpointsError struct {
	VM    string
	Names []string // at most 32
}

func (e *CheckpointsError) Error() string {
	return fmt.Sprintf("VM %s has checkpoints (%s): what is restored would be written on top of them, they would stay as they are, and to apply one of them would undo the restore",
		e.VM, strings.Join(e.Names, ", "))
}

// Hint is what a person can do about it.
func (e *CheckpointsError) Hint() string {
	return "Remove the checkpoints and wait until they are merged, or ask for a restore under checkpoints, or restore to a new VM."
}

// AlteredError says that a VM is not any more what it was when a restore in place began to write over it. Nothing more was
// written.
type AlteredError struct {
	VM   string
	What string // what is different
}

func (e *AlteredError) Error() string {
	return fmt.Sprintf("VM %s was changed by somebody while it was being restored: %s", e.VM, e.What)
}

// Hint is what a person can do about it.
func (e *AlteredError) Hint() string {
	return "See to it that nobody works on the VM, then restore again."
}

// IncompleteError says that a restore of a VM was begun and did not come to its end: what its disks hold is of no one moment.
// Restoring a point in place again makes it whole; one that was being made is destroyed by a sweep.
type IncompleteError struct {
	VM    string
	Mark  string
	Since string // RFC 3339; empty: not known
	New   bool   // it is a new VM
}

func (e *IncompleteError) Error() string {
	if e.New {
		return fmt.Sprintf("VM %s is being made by a restore that has not ended; what is in it is not whole (its notes say so)", e.VM)
	}
	return fmt.Sprintf("VM %s: a restore in place was begun and did not end; restore a point in place again to make it whole (its notes say so)", e.VM)
}

// PowerOnError says that a VM was brought back, whole, and could not be started.
type PowerOnError struct {
	VM  string
	Err error
}

func (e *PowerOnError) Error() string {
	return fmt.Sprintf("VM %s was restored and is whole, but could not be started: %v", e.VM, e.Err)
}
func (e *PowerOnError) Unwrap() error { return e.Err }
