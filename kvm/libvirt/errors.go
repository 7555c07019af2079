package libvirt

import (
	"errors"
	"fmt"
	"io/fs"
)

// Codes of errors that callers act on.
const (
	CodeInternal          = 1  // among others: what QEMU or the guest agent refused
	CodeNoDomain          = 42 // there is no such domain
	CodeOperationInvalid  = 55 // the domain is not in the state for it, as a monitor of one that is off
	CodeOperationTimeout  = 68 // another job holds the domain
	CodeNoAgent           = 74 // the domain has no port for an agent
	CodeAgentUnresponsive = 86
)

// Error is what the daemon answered instead of a result.
type Error struct {
	Call    string
	Code    int
	Origin  int // which part of libvirt, by its number
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("libvirt: %s: %s (code %d)", e.Call, e.Message, e.Code)
}

// Is makes of a domain that is not there what all packages say then.
func (e *Error) Is(target error) bool { return target == fs.ErrNotExist && e.Code == CodeNoDomain }

// IsCode reports whether err is an answer of the daemon with that code.
func IsCode(err error, code int) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// DaemonError says that no daemon could be talked to. What it says nothing about are the machines: they run without it.
type DaemonError struct {
	Socket string
	Err    error
}

func (e *DaemonError) Error() string {
	return fmt.Sprintf("libvirt's daemon at %s: %v", e.Socket, e.Err)
}
func (e *DaemonError) Unwrap() error { return e.Err }

var (
	// ErrClosed says that the connection has ended.
	ErrClosed = errors.New("the connection to libvirt is closed")
	// ErrTooLong says that a packet was longer than what is read or written.
	ErrTooLong = errors.New("a packet is longer than libvirt's bound")
	// ErrProtocol says that the other end does not speak libvirt's protocol, or not as this package knows it.
	ErrProtocol = errors.New("not libvirt's protocol")
	// ErrAuth says that the daemon wants to know who is asking, by a way that is not supported or was refused.
	ErrAuth = errors.New("libvirt does not let this user in")
)
