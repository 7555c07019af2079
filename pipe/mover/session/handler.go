package session

import (
	"context"
	"errors"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// Caller makes calls to the other side of a session. It is safe for concurrent use.
type Caller interface {
	// Call makes a call and returns its answer, which belongs to the caller. The request's content is not read any more
	// when Call returns. Errors: a *wire.Fail as it was answered; [ErrLost], [ErrGaveUp], [ErrClosed] or a *wire.Refuse
	// when the session is over; the context's error, and then the call was carried out, or not, or in part.
	Call(ctx context.Context, req wire.Message) (wire.Message, error)
}

// Handler carries out calls.
type Handler interface {
	// Handle carries out one call; calls run beside each other. A call that brings or changes something is handled once.
	// The request's content belongs to the handler until it returns, the answer's to the session from then on. An error
	// that is a *wire.Fail is sent as it is, any other as wire.CodeFailed with its text. The context ends when nobody
	// wants the answer any more, or with the session.
	Handle(ctx context.Context, call uint64, req wire.Message) (wire.Message, error)

	// Close ends what the session holds open. It is called once, when the contexts of all calls have been cancelled and
	// those have returned, or did not for 10 s. Nothing of the session may be committed after it has begun.
	Close() error
}

// answerOf makes one message of what a handler returned.
func answerOf(answer wire.Message, err error) wire.Message {
	var fail *wire.Fail
	switch {
	case errors.As(err, &fail):
		return fail
	case errors.Is(err, context.DeadlineExceeded):
		return &wire.Fail{Code: wire.CodeDeadline, Text: err.Error()}
	case err != nil:
		return &wire.Fail{Code: wire.CodeFailed, Text: err.Error()}
	case answer == nil:
		return &wire.Fail{Code: wire.CodeFailed, Text: "the call has no answer"}
	}
	return answer
}
