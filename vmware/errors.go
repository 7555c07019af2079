package vmware

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// TaskError is a task of the server that failed.
type TaskError struct {
	Task   types.ManagedObjectReference
	Name   string // as the server calls it: CreateSnapshot_Task …
	Object string // the name of what it was done to; may be empty
	Fault  types.BaseMethodFault
	Text   string // the server's own words
}

func (e *TaskError) Error() string {
	what := e.Name
	if e.Object != "" {
		what += " of " + e.Object
	}
	text := e.Text
	if text == "" {
		text = "it failed"
	}
	if kind := faultName(e.Fault); kind != "" {
		text += " (" + kind + ")"
	}
	return what + ": " + text
}

// AnswerError says that a server's answer holds something of a type that cannot stand there.
type AnswerError struct {
	Object string // a reference, or which answer
	Path   string // the property; empty: not known
	Why    string
}

func (e *AnswerError) Error() string {
	what := e.Object
	if e.Path != "" {
		what += ": " + e.Path
	}
	return what + ": it is of a type that cannot stand there: " + e.Why
}

// faultName is the name of a fault's type.
func faultName(f types.BaseMethodFault) string {
	if f == nil {
		return ""
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", f), "*types.")
}

// IsFault reports whether an error is, or comes from, a fault of the server of that type, be it a call's or a task's:
//
//	vmware.IsFault[*types.ApplicationQuiesceFault](err)
func IsFault[T types.BaseMethodFault](err error) bool { return isFault[T](err) }

// AsFault is IsFault, and returns the fault.
func AsFault[T types.BaseMethodFault](err error) (T, bool) { return faultAs[T](err) }

// UnfitError says why a transport cannot reach a disk. It is an answer, not a failure: another transport may.
type UnfitError struct {
	Transport string
	Reason    string
	Hint      string // what a person can do about it; may be empty
}

func (e *UnfitError) Error() string { return e.Transport + ": " + e.Reason }
