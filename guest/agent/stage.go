package agent

import (
	"context"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// limited is a context that ends after so many milliseconds.
func limited(ctx context.Context, millis int64) (context.Context, context.CancelFunc, error) {
	if millis == 0 {
		millis = defaultLimit
	}
	if millis < 0 || millis > maxLimit {
		return nil, nil, failure(wire.CodeInvalid, "a limit of %d ms: at most %d", millis, maxLimit)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(millis)*time.Millisecond)
	return ctx, cancel, nil
}

func (s *Session) prepare(ctx context.Context, args wire.PrepareArgs) (a wire.PrepareAnswer, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	switch {
	case s.prepared != nil:
		return a, failure(wire.CodeState, "applications are prepared already")
	case s.frozen != nil:
		return a, failure(wire.CodeState, "it is frozen")
	}
	ctx, cancel, err := limited(ctx, args.LimitMillis)
	if err != nil {
		return a, err
	}
	defer cancel()
	s.prepared, a.Applications, err = s.agent.opts.Applications.Prepare(ctx, args)
	return a, err
}

// begun is what Prepare began, for a stage after the thaw.
func (s *Session) begun() (Prepared, error) {
	switch {
	case s.prepared == nil:
		return nil, failure(wire.CodeState, "nothing is prepared")
	case s.frozen != nil:
		return nil, failure(wire.CodeState, "it is frozen")
	}
	return s.prepared, nil
}

func (s *Session) finish(ctx context.Context, args wire.FinishArgs) (a wire.FinishAnswer, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	p, err := s.begun()
	if err != nil {
		return a, err
	}
	ctx, cancel, err := limited(ctx, args.LimitMillis)
	if err != nil {
		return a, err
	}
	defer cancel()
	a.Records, a.Applications = p.Finish(ctx)
	return a, nil
}

// settle is the last stage: what was prepared is let go.
func (s *Session) settle(ctx context.Context, args wire.SettleArgs) (a wire.SettleAnswer, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	p, err := s.begun()
	if err != nil {
		return a, err
	}
	ctx, cancel, err := limited(ctx, 0)
	if err != nil {
		return a, err
	}
	defer cancel()
	a.Applications = p.Settle(ctx, args)
	s.prepared = nil
	return a, p.Close()
}
