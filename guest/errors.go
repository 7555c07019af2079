package guest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// ErrNoWay says that every way into a guest is closed.
var ErrNoWay = errors.New("no way into the guest")

// ErrLink is wrapped where the link to a guest broke, and not something at its other end: another attempt may help.
var ErrLink = errors.New("the link to the guest broke")

// ErrLeftover says that something of ours could not be removed from a guest.
var ErrLeftover = errors.New("left behind in the guest")

// WayError says why a way into a guest is closed.
type WayError struct {
	Kind    Kind
	Step    string // resolve, connect, host key, login, rights, temp, upload, start, …
	Problem string
	Hint    string // what to change
	Err     error
}

func (e *WayError) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.Kind, e.Step, e.Problem)
	if e.Err != nil && e.Problem == "" {
		s = fmt.Sprintf("%s: %s: %v", e.Kind, e.Step, e.Err)
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *WayError) Unwrap() error { return e.Err }

// StepError names the guest and the step at which its processing failed.
type StepError struct {
	Guest string
	Step  string // find, deploy, connect, inspect, prepare, freeze, thaw, finish, index, logs, remove
	Err   error
}

func (e *StepError) Error() string { return fmt.Sprintf("guest %s: %s: %v", e.Guest, e.Step, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// LinkBroke reports whether an error is about the link, and not about what is at its other end.
func LinkBroke(err error) bool {
	if way, ok := errors.AsType[*WayError](err); ok && (way.Step == "connect" || way.Step == "link") {
		return true
	}
	for _, e := range broken {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var broken = []error{ErrLink, ErrLost, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED,
	syscall.ECONNABORTED, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH}
