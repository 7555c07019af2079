package vmware

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"
)

// TaskError is a task of the server that failed.
type TaskError struct {
	Task  types.ManagedObjectReference
	Name  string // as the server calls it: CreateSnapshot_Task …
	Fault types.BaseMethodFault
	Text  string // the server's own words
}

func (e *TaskError) Error() string { return fmt.Sprintf("%s: %s", e.Name, e.Text) }

// UnfitError says why a transport cannot reach a disk. It is an answer, not a failure: another transport may.
type UnfitError struct {
	Transport string
	Reason    string
	Hint      string // what a person can do about it; may be empty
}

func (e *UnfitError) Error() string { return e.Transport + ": " + e.Reason }
