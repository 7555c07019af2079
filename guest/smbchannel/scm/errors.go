package scm

import (
	"fmt"
	"io/fs"
)

// Error is what the service control manager answers where it does not do what it was asked.
type Error struct {
	Call string // open, create, start …
	Name string // of the service; empty for the manager itself
	Code uint32 // a Win32 error (MS-ERREF 2.2)
}

// Codes that callers may act on.
const (
	AccessDenied     = 5
	FileNotFound     = 2
	PathNotFound     = 3
	InvalidHandle    = 6
	InvalidParameter = 87
	InvalidName      = 123
	Timeout          = 1053
	AlreadyRunning   = 1056
	Disabled         = 1058
	NoSuchService    = 1060
	CannotControl    = 1061
	NotActive        = 1062
	serviceSpecific  = 1066
	MarkedForDelete  = 1072
	ServiceExists    = 1073
	DuplicateName    = 1078
	VirusInfected    = 225
	AppBlocked       = 1260
)

var words = map[uint32]string{
	AccessDenied:     "access denied",
	FileNotFound:     "its program is not there",
	PathNotFound:     "its program's folder is not there",
	InvalidHandle:    "an unknown handle",
	InvalidParameter: "a parameter that it does not take",
	InvalidName:      "a name that it does not take",
	Timeout:          "the program did not answer in time",
	AlreadyRunning:   "it runs already",
	Disabled:         "it is disabled",
	NoSuchService:    "no such service",
	CannotControl:    "it cannot take a control now",
	NotActive:        "it does not run",
	MarkedForDelete:  "it was deleted and has not ended yet",
	ServiceExists:    "there is a service of that name",
	DuplicateName:    "there is a service that shows that name",
	VirusInfected:    "the machine's virus scanner refuses its program",
	AppBlocked:       "a policy of the machine refuses its program",
}

func (e *Error) Error() string {
	s := e.Call
	if e.Name != "" {
		s += " service " + e.Name
	}
	if w := words[e.Code]; w != "" {
		return fmt.Sprintf("%s: %s (error %d)", s, w, e.Code)
	}
	return fmt.Sprintf("%s: error %d", s, e.Code)
}

// Is lets errors.Is find fs.ErrNotExist, fs.ErrExist and fs.ErrPermission.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case NoSuchService:
		return target == fs.ErrNotExist
	case ServiceExists, DuplicateName:
		return target == fs.ErrExist
	case AccessDenied:
		return target == fs.ErrPermission
	}
	return false
}
