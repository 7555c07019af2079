package session

import (
	"errors"
	"fmt"
	"net"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// Why a session ended. Every call that is under way then, and every later one, fails with it.
var (
	// ErrLost: the other side does not know the session. It was restarted, or nobody came for longer than it waits.
	// Calls whose answers did not come may have been carried out or not, and what they changed may be gone.
	ErrLost = errors.New("the other side does not know this session any more")
	// ErrGaveUp: there was no line for longer than the session waits.
	ErrGaveUp = errors.New("no line to the other side for too long")
	// ErrClosed: this side or the other closed the session. It is a net.ErrClosed.
	ErrClosed = fmt.Errorf("the session was closed: %w", net.ErrClosed)
	// ErrFinal: wrapped by what Dial returns, it says that dialling again is useless.
	ErrFinal = errors.New("another attempt is useless")
)

// errProtocol is wrapped where the other side does what the protocol rules out.
var errProtocol = errors.New("the other side breaks the protocol")

// refusal makes an error of the last message on a lane. final: the session is over; otherwise only the lane is.
func refusal(m *wire.Refuse) (err error, final bool) {
	switch m.Code {
	case wire.CodeLost:
		return fmt.Errorf("%w: %w", ErrLost, m), true
	case wire.CodeClosed:
		return fmt.Errorf("%w: %w", ErrClosed, m), true
	case wire.CodeBusy, wire.CodeDeadline, wire.CodeFailed:
		return fmt.Errorf("refused for now: %w", m), false
	}
	return fmt.Errorf("refused: %w", m), true
}
