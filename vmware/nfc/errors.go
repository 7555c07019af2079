package nfc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/hikae/hikae/pipe"
)

// ErrLost is wrapped where a connection broke, or the host stopped answering. Another try may help. Whether a write that
// failed so took effect is not known; the same write can be done again.
var ErrLost = errors.New("the connection is lost")

// ErrChanged is wrapped where a disk that was opened again after a lost connection is not the one that it was, and where
// the disk is not of the size that the caller expects.
var ErrChanged = fmt.Errorf("the disk is another than expected: %w", fs.ErrInvalid)

var errClosed = fmt.Errorf("NFC: the disk is closed: %w", fs.ErrClosed)

// ProtocolError says that the host broke the protocol, as far as it is known. The session is over, and no new connection
// is made for it. It matches errors.ErrUnsupported: this client does not understand this host, which another try does not
// change, and another way to the disk may.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "NFC protocol: " + e.What }

// Is matches errors.ErrUnsupported.
func (e *ProtocolError) Is(target error) bool { return target == errors.ErrUnsupported }

func broken(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}

// HostError is a request that the host refused. The connection stands.
type HostError struct {
	Op string // open session, open file, read, write, …
	// Code is the host's number: the first 32 bits of the error message. Known by name is only 11, a file that may only be
	// read, which matches fs.ErrPermission. A ticket for reading gives that to whoever opens for writing.
	Code uint32
}

const codeReadOnly = 11

func (e *HostError) Error() string {
	if e.Code == codeReadOnly {
		return fmt.Sprintf("NFC: the host refused to %s: the file is read-only (error 11)", e.Op)
	}
	return fmt.Sprintf("NFC: the host refused to %s: error %d", e.Op, e.Code)
}

// Is matches fs.ErrPermission where the file may only be read.
func (e *HostError) Is(target error) bool {
	return e.Code == codeReadOnly && (target == fs.ErrPermission || target == syscall.EROFS)
}

// RefusedError is an answer of the authentication daemon, before any disk is reached: a ticket that is spent, or a
// service that the host does not have. A new ticket may help, another try with this one does not: it matches
// fs.ErrPermission.
type RefusedError struct {
	Addr    string
	Command string // without its secret
	Answer  string // the host's line, shortened
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("NFC: %s refused %s: %q", e.Addr, e.Command, e.Answer)
}

// Is matches fs.ErrPermission.
func (e *RefusedError) Is(target error) bool { return target == fs.ErrPermission }

// TrustError says that a host showed another certificate than the ticket named. Nothing was sent to it. It matches
// fs.ErrPermission.
type TrustError struct {
	Addr  string
	Layer string // "authentication" or "disk service"
	Want  string
	Got   string
}

func (e *TrustError) Error() string {
	return fmt.Sprintf("NFC: %s: the %s has the certificate %s, the ticket says %s", e.Addr, e.Layer, e.Got, e.Want)
}

// Is matches fs.ErrPermission.
func (e *TrustError) Is(target error) bool { return target == fs.ErrPermission }

// lost says that a connection is over, unless err says more than that. An end of the stream is no end of the disk, and a
// deadline of the connection none of the caller's: neither stays recognisable, or whoever asks whether another try is
// worth it would be misled.
func lost(err error) error {
	switch {
	case errors.Is(err, ErrLost) || isVerdict(err):
		return err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the host closed it", ErrLost)
	case !pipe.WorthRetry(err):
		return fmt.Errorf("%w: %v", ErrLost, err)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// isVerdict reports whether err is what the host said or did, and not what became of the line to it.
func isVerdict(err error) bool {
	var broke *ProtocolError
	var trust *TrustError
	var refused *RefusedError
	var host *HostError
	return errors.As(err, &broke) || errors.As(err, &trust) || errors.As(err, &refused) || errors.As(err, &host)
}
