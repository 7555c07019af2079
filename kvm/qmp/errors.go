package qmp

import (
	"errors"
	"fmt"
)

// Classes of errors that QEMU tells apart. Almost everything is GenericError.
const (
	ClassGeneric        = "GenericError"
	ClassNotFound       = "CommandNotFound"
	ClassDeviceNotFound = "DeviceNotFound"
	ClassKVMMissing     = "KVMMissingCap"
	ClassNotActive      = "DeviceNotActive"
)

// Error is what QEMU answered instead of a result.
type Error struct {
	Command string
	Class   string
	Desc    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Command, e.Desc) }

// IsClass reports whether err is an answer of QEMU of that class.
func IsClass(err error, class string) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == class
}

// Refused reports whether err is an answer of QEMU at all: the command was understood and not done. Any other error
// leaves open whether it was.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

var (
	// ErrTaken says that the monitor did not greet: another client holds it.
	ErrTaken = errors.New("the monitor did not greet: it serves another client")
	// ErrSilent says that a monitor greeted and then answered nothing. Greetings come from a thread of their own; what
	// answers is QEMU's main loop, which waits for something, most often for storage that does not answer.
	ErrSilent = errors.New("QEMU greets, and answers no command")
	// ErrClosed says that the connection has ended.
	ErrClosed = errors.New("the monitor's connection is closed")
	// ErrTooLong says that a message was longer than MaxMessage.
	ErrTooLong = errors.New("a message is longer than what is read")
	// ErrProtocol says that the other end does not speak QMP.
	ErrProtocol = errors.New("not the QEMU machine protocol")
)
