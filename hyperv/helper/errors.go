package helper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// Error is what a host refused, or could not do. It is fs.ErrNotExist, fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported or
// context.DeadlineExceeded where the reason is one of those, and ErrWriter, ErrBusy.
type Error struct {
	Host    string
	Op      string // Take, Open …
	Object  string // set, file; may be empty
	Failure *wire.Failure
}

func (e *Error) Error() string {
	on := e.Op
	if e.Object != "" {
		on += " " + e.Object
	}
	return fmt.Sprintf("helper on %s: %s: %v", e.Host, on, e.Failure)
}

// Unwrap is the host's own failure.
func (e *Error) Unwrap() error { return e.Failure }

// Is maps kinds of failures to errors that callers know.
func (e *Error) Is(target error) bool {
	switch e.Failure.Code {
	case wire.Missing:
		return target == fs.ErrNotExist
	case wire.Denied:
		return target == fs.ErrPermission
	case wire.Unsupported:
		return target == errors.ErrUnsupported
	case wire.Late:
		return target == context.DeadlineExceeded
	case wire.Invalid:
		return target == fs.ErrInvalid
	case wire.Busy:
		return target == ErrBusy
	case wire.Writer:
		return target == ErrWriter
	}
	return false
}

// Retryable reports whether the same may succeed a little later.
func (e *Error) Retryable() bool { return e.Failure.Again || e.Failure.Code == wire.Busy }

var (
	// ErrBusy says that another program made a shadow copy all the time.
	ErrBusy = errors.New("another program makes a shadow copy")
	// ErrWriter says that Hyper-V's writer failed: in a set all VMs share that.
	ErrWriter = errors.New("Hyper-V's writer failed")
	// ErrLink says that the connection to the helper broke: with it go the sets that were made over it.
	ErrLink = errors.New("the connection to the helper is lost")
	// ErrClosed says that the requester was closed.
	ErrClosed = errors.New("the requester is closed")
)
