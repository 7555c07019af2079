package fsrvp

import (
	"errors"
	"fmt"
	"io/fs"
)

// Code is a status that the protocol's calls return: MS-FSRVP 2.2.4.
type Code uint32

// Codes that something depends on.
const (
	accessDenied  Code = 0x80070005
	badArgument   Code = 0x80070057
	badState      Code = 0x80042301
	setInProgress Code = 0x80042316
	notSupported  Code = 0x8004230C
	copyExists    Code = 0x8004230D
	notFound      Code = 0x80042308
	waitTimedOut  Code = 0x00000102
	waitFailed    Code = 0xFFFFFFFF
	timedOut      Code = 0x80042500
	otherSet      Code = 0x80042501
)

var words = map[Code]string{
	accessDenied:  "access denied",
	badArgument:   "an argument is not what the server expects",
	badState:      "the server is not where this call comes next",
	setInProgress: "another shadow copy set is being made",
	notSupported:  "the server cannot make shadow copies of this share",
	copyExists:    "there is a shadow copy of this share in the set already",
	notFound:      "no such shadow copy",
	waitTimedOut:  "the server did not get done in time",
	waitFailed:    "the server failed",
	timedOut:      "the server did not get done in time",
	otherSet:      "the set is not the one that is being made",
}

func (c Code) String() string {
	if w := words[c]; w != "" {
		return w
	}
	return fmt.Sprintf("status %#08x", uint32(c))
}

// Error is a call that the server refused. It is fs.ErrPermission, fs.ErrNotExist and errors.ErrUnsupported where its code says so.
type Error struct {
	Op     string // of the protocol: StartShadowCopySet …
	Server string
	Share  string // may be empty
	Code   Code
}

func (e *Error) Error() string {
	on := e.Server
	if e.Share != "" {
		on = e.Share
	}
	return fmt.Sprintf("%s on %s: %v", e.Op, on, e.Code)
}

// Is maps the codes that have a standard error.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrPermission:
		return e.Code == accessDenied
	case fs.ErrNotExist:
		return e.Code == notFound
	case errors.ErrUnsupported:
		return e.Code == notSupported
	}
	return false
}

// Hint is what a person can do about it; it may be empty.
func (e *Error) Hint() string {
	switch e.Code {
	case accessDenied:
		return "the account must be one of Administrators or Backup Operators on " + e.Server
	case notSupported:
		return "the file server needs the role service \"File Server VSS Agent Service\", and a volume that takes shadow copies"
	case setInProgress:
		return "another backup makes shadow copies there; try again when it is done"
	}
	return ""
}

// ErrMalformed says that a server's answer makes no sense.
var ErrMalformed = errors.New("malformed answer of a file server")

// ReachError says why a server could not be spoken to.
type ReachError struct {
	Server string
	Step   string // connect, login, agent
	Err    error
}

func (e *ReachError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Server, e.Step, e.Err) }

func (e *ReachError) Unwrap() error { return e.Err }

// LeftError is a set that could not be made, and not be taken back either: its shadow copies may be on the server until
// [Conn.Delete] ends them.
type LeftError struct {
	Set  Set
	Err  error // why it was not made
	Left error // why it was not taken back
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("%v; shadow copy set %s may be left: %v", e.Err, e.Set.ID, e.Left)
}

func (e *LeftError) Unwrap() []error { return []error{e.Err, e.Left} }
