package qga

import (
	"errors"
	"fmt"
)

// Error is what the agent answered instead of a result.
type Error struct {
	Command string
	Class   string
	Desc    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Command, e.Desc) }

// Refused reports whether err is an answer of the agent: it understood the command and did not do it. Any other error
// leaves open whether it did.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

var (
	// ErrSilent says that no agent answered: none runs in the guest, it is busy, or another client holds the port.
	ErrSilent = errors.New("the guest agent does not answer")
	// ErrTooLong says that the guest sent, or would make the caller hold, more than what is read.
	ErrTooLong = errors.New("the guest sent more than what is read")
	// ErrProtocol says that the guest's answer makes no sense.
	ErrProtocol = errors.New("not an answer of a guest agent")
	// ErrFrozen says that file systems of the guest are frozen already, by somebody else.
	ErrFrozen = errors.New("file systems of the guest are frozen already")
)
