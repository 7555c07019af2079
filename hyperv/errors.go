package hyperv

import (
	"fmt"
	"strings"
)

// PlanError says that a VM cannot be backed up as it was asked for, and which conditions are in the way.
type PlanError struct {
	VM    string
	Name  string
	Asked string // what was asked for, in words
	Unmet []Reason
}

func (e *PlanError) Error() string {
	var why []string
	for _, r := range e.Unmet {
		why = append(why, r.String())
	}
	return fmt.Sprintf("VM %s (%s): %s is not possible: %s", e.VM, e.Name, e.Asked, strings.Join(why, "; "))
}

// PendingError says that a backup is good and that something of ours on the host is not cleaned up yet: a merge that goes on, or
// failed. The next session, or a sweep, looks after it.
type PendingError struct {
	VM    string
	What  string // checkpoint …, merge of …
	Err   error  // why; may be nil
	Hint  string
	Files []string // that are still there
}

func (e *PendingError) Error() string {
	text := fmt.Sprintf("VM %s: clean-up is pending: %s", e.VM, e.What)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *PendingError) Unwrap() error { return e.Err }

// TwinError says that several disks of a VM have one id, as a disk and its copy do: which of them is meant nobody can tell.
type TwinError struct {
	VM    string
	ID    string   // VirtualDiskId
	Disks []string // where they are attached, and their files
}

func (e *TwinError) Error() string {
	return fmt.Sprintf("VM %s: disk %s is meant, and %s all have that id, as a disk and its copy do: detach the copy, or give it an id of its own (Set-VHD -ResetDiskIdentifier)",
		e.VM, e.ID, strings.Join(e.Disks, " and "))
}

// ChangedError says that a VM was changed while its backup was begun, so that what was planned is not what its disks are: a checkpoint was
// taken or applied, a disk added, replaced or moved, or the VM itself. Asked for again it is planned anew.
type ChangedError struct {
	VM   string
	What string // in words, with the disk and its files
}

func (e *ChangedError) Error() string {
	return "the VM was changed while its backup was begun: " + e.What
}
