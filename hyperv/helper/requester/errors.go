package requester

import (
	"errors"
	"fmt"
	"io/fs"
)

// Code is a result code of the service: an HRESULT.
type Code uint32

// The codes that something depends on.
const (
	NotImplemented      Code = 0x80004001
	AccessDenied        Code = 0x80070005
	BadState            Code = 0x80042301
	ObjectNotFound      Code = 0x80042308
	VolumeNotSupported  Code = 0x8004230C
	SetInProgress       Code = 0x80042316
	InsufficientStorage Code = 0x8004231F
	WriterTimeout       Code = 0x800423F2
	WriterRetryable     Code = 0x800423F3
	WriterNonRetryable  Code = 0x800423F4
	AutorecoveryFailed  Code = 0x800423FB
)

// Error is a call of the service that failed. It is fs.ErrPermission, fs.ErrNotExist or errors.ErrUnsupported where its code says so.
type Error struct {
	Op     string // the method
	Object string // writer, component, volume or set; may be empty
	Code   Code
	Text   string // the code in words. Empty: its number is shown
	Hint   string // what to do; may be empty
	// Again says that the same may succeed a little later.
	Again bool
}

func (e *Error) Error() string {
	s := e.Op
	if e.Object != "" {
		s += " " + e.Object
	}
	if e.Text != "" {
		return s + ": " + e.Text
	}
	return fmt.Sprintf("%s: code 0x%08X", s, uint32(e.Code))
}

// Is maps the codes that have a standard error.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrPermission:
		return e.Code == AccessDenied
	case fs.ErrNotExist:
		return e.Code == ObjectNotFound
	case errors.ErrUnsupported:
		return e.Code == NotImplemented || e.Code == VolumeNotSupported
	}
	return false
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}
