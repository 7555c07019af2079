package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// ErrLost is wrapped where a connection broke, or its peer stopped answering. Whether a write that failed so took
// effect is not known.
var ErrLost = errors.New("the connection is lost")

// ErrNoContext is wrapped where the server was not asked for a metadata context, or does not have it.
var ErrNoContext = fmt.Errorf("no such metadata context: %w", fs.ErrNotExist)

// ErrTLS is wrapped where one side asks for TLS and the other does not.
var ErrTLS = errors.New("TLS is not agreed on")

// ProtocolError says that the peer broke the protocol. The connection is over.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "NBD protocol: " + e.What }

func broken(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}

// Errno is an error number of the protocol.
type Errno uint32

const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

var errnoNames = map[Errno]string{
	EPERM: "operation not permitted", EIO: "input/output error", ENOMEM: "out of memory", EINVAL: "invalid argument",
	ENOSPC: "no space left", EOVERFLOW: "value too large", ENOTSUP: "not supported", ESHUTDOWN: "server is shutting down",
}

func (n Errno) String() string {
	if name, ok := errnoNames[n]; ok {
		return name
	}
	return fmt.Sprintf("error %d", uint32(n))
}

// ServerError is a request that the server failed. It matches fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported
// and syscall.ENOSPC by its number.
type ServerError struct {
	Errno   Errno
	Message string // for people; may be empty
}

func (e *ServerError) Error() string {
	if e.Message == "" {
		return "NBD server: " + e.Errno.String()
	}
	return fmt.Sprintf("NBD server: %v: %q", e.Errno, e.Message)
}

func (e *ServerError) Is(target error) bool {
	switch e.Errno {
	case EPERM:
		return target == fs.ErrPermission
	case EINVAL:
		return target == fs.ErrInvalid
	case ENOTSUP:
		return target == errors.ErrUnsupported
	case ENOSPC:
		return target == syscall.ENOSPC
	}
	return false
}

// OptionError is an option of the handshake that the server refused. It matches fs.ErrNotExist for an export that is
// not there, fs.ErrPermission for one that policy forbids, errors.ErrUnsupported and [ErrTLS].
type OptionError struct {
	Option  string
	Code    uint32
	Message string // for people; may be empty
}

var refusals = map[uint32]string{
	repErrUnsupported: "not supported", repErrPolicy: "forbidden by policy", repErrInvalid: "invalid request",
	repErrPlatform: "not supported on the server's platform", repErrTLSRequired: "TLS is required",
	repErrUnknown: "no such export", repErrShutdown: "server is shutting down", repErrBlockSize: "block sizes must be agreed on",
	repErrTooBig: "too big", repErrExtendedFirst: "extended headers are required",
}

func (e *OptionError) Error() string {
	why, ok := refusals[e.Code]
	if !ok {
		why = fmt.Sprintf("error %#x", e.Code)
	}
	if e.Message != "" {
		why = fmt.Sprintf("%s: %q", why, e.Message)
	}
	return fmt.Sprintf("NBD server refused %s: %s", e.Option, why)
}

func (e *OptionError) Is(target error) bool {
	switch e.Code {
	case repErrUnknown:
		return target == fs.ErrNotExist
	case repErrPolicy:
		return target == fs.ErrPermission
	case repErrUnsupported, repErrPlatform:
		return target == errors.ErrUnsupported
	case repErrTLSRequired:
		return target == ErrTLS
	}
	return false
}
