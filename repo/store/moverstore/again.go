package moverstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

const (
	maxLosses  = 5                // sessions that one call of a store may lose
	busyFor    = 10 * time.Minute // how long a call waits for room at the other side
	busyLeast  = 50 * time.Millisecond
	busyLonger = 5 * time.Second
)

// again carries out what takes calls of one session. Where the other side has no room it waits; where the session was
// lost it begins anew in the next one. Nothing is known then of what the lost one did.
func (s *Store) again(ctx context.Context, do func(c Caller, lost bool) error) error {
	deadline := time.Now().Add(busyFor)
	losses, wait := 0, busyLeast
	for {
		err := s.once(ctx, func(c Caller) error { return do(c, losses > 0) })
		switch {
		case isLost(err) && losses < maxLosses && ctx.Err() == nil:
			losses++
		case answers(err, wire.CodeBusy) && time.Now().Add(wait).Before(deadline):
			if err := pause(ctx, wait); err != nil {
				return err
			}
			wait = min(2*wait, busyLonger)
		default:
			return err
		}
	}
}

func (s *Store) once(ctx context.Context, do func(c Caller) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := s.sessions(ctx)
	if err != nil {
		return err
	}
	return do(c)
}

func isLost(err error) bool {
	return errors.Is(err, mover.ErrLostSession) || errors.Is(err, session.ErrLost)
}

// answers reports whether an error is an answer with that code.
func answers(err error, code wire.Code) bool {
	fail, ok := errors.AsType[*wire.Fail](err)
	return ok && fail.Code == code
}

// pause waits about so long: not all who were turned away come back at once.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settled is what a creation came to that was begun in a session which was lost: if there is an object now and it is
// this one, the lost session had created it. Who may not read it cannot find out, and is told that it exists.
func settled(ctx context.Context, c Caller, name string, data []byte, err error) error {
	if !answers(err, wire.CodeExists) {
		return err
	}
	there, sizeErr := size(ctx, c, name)
	if sizeErr != nil || there != int64(len(data)) {
		return err
	}
	got := make([]byte, len(data))
	if n, readErr := readAt(ctx, c, name, got, 0); readErr == nil && n == len(data) && bytes.Equal(got, data) {
		return nil
	}
	return err
}
