package mover

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Session is one session of a [Client], for packages that speak with a mover of what this one has no type for: the store
// of a blind target. Handles that a mover gives out are good in their session only, so whoever holds some stays in it.
type Session struct {
	c *Client
	e *epoch
}

// Session is the current session, or a new one where the last was lost.
func (c *Client) Session(ctx context.Context) (*Session, error) {
	e, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	return &Session{c, e}, nil
}

// Call makes one call. A failure that the mover answered is the *wire.Fail itself.
//
// Where the mover has forgotten the session the error is [ErrLostSession]: whether the call was carried out is not
// known, and whatever was open in the session is gone.
func (s *Session) Call(ctx context.Context, req wire.Message) (wire.Message, error) {
	_, answer, err := s.e.line.CallNumbered(ctx, req)
	if f, ok := errors.AsType[*wire.Fail](err); ok && f.Code != wire.CodeLost {
		return nil, f
	}
	if f, ok := answer.(*wire.Fail); ok && err == nil {
		return nil, f
	}
	if err == nil {
		return answer, nil
	}
	if err = s.e.whatFailed(ctx, err); !isLost(err) {
		return nil, err
	}
	s.c.lost(s.e)
	if errors.Is(err, session.ErrLost) && !errors.Is(err, ErrLostSession) {
		err = fmt.Errorf("%w: %w", ErrLostSession, err)
	}
	return nil, err
}
