package agent

import (
	"context"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of a freeze, in milliseconds.
const (
	DefaultHold   = 8_000
	minHold       = 500
	maxHold       = 60_000
	defaultScript = 600_000
	maxScript     = 3_600_000
	maxMounts     = 1024
	defaultLimit  = 60_000 // of Prepare and Finish
	maxLimit      = 3_600_000
)

// The phases of scripts.
const (
	phaseFreeze = "freeze"
	phaseFail   = "freezeFail"
	phaseThaw   = "thaw"
)

// hold is a freeze that lasts.
type hold struct {
	frozen  Frozen // nil: no file system is part of it
	args    wire.FreezeArgs
	since   time.Time // when commits or file systems began to stand still
	timer   *time.Timer
	expired bool
}

// checked are the arguments with their defaults.
func checked(args wire.FreezeArgs) (wire.FreezeArgs, error) {
	if args.HoldMillis == 0 {
		args.HoldMillis = DefaultHold
	}
	if args.ScriptMillis == 0 {
		args.ScriptMillis = defaultScript
	}
	switch {
	case args.HoldMillis < minHold || args.HoldMillis > maxHold:
		return args, failure(wire.CodeInvalid, "a hold of %d ms: %d to %d", args.HoldMillis, minHold, maxHold)
	case args.ScriptMillis < 0 || args.ScriptMillis > maxScript:
		return args, failure(wire.CodeInvalid, "scripts for %d ms: at most %d", args.ScriptMillis, maxScript)
	case len(args.Mounts) > maxMounts:
		return args, failure(wire.CodeInvalid, "%d mounts: at most %d", len(args.Mounts), maxMounts)
	}
	return args, nil
}

// doFreeze is the verb. What is frozen is thawed by us when the hold is over, and by the watchdog if we cannot.
func (s *Session) doFreeze(ctx context.Context, args wire.FreezeArgs) (a wire.FreezeAnswer, err error) {
	if args, err = checked(args); err != nil {
		return a, err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	if s.frozen != nil {
		return a, failure(wire.CodeState, "it is frozen already")
	}
	select {
	case <-s.agent.freeze:
	default:
		return a, failure(wire.CodeState, "another session holds a freeze")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.setUndo(cancel)
	defer s.setUndo(nil)
	defer func() {
		if s.frozen == nil {
			s.agent.freeze <- struct{}{}
		}
	}()
	if a, err = s.freeze(ctx, args); err != nil {
		return a, err
	}
	if ctx.Err() != nil { // nobody waits for this freeze any more
		s.goBack(context.WithoutCancel(ctx))
		return a, ctx.Err()
	}
	return a, nil
}

// freeze goes the way in: scripts, what takes long of the file systems, applications, file systems. On an error it has
// gone the way back. The hold is for both of the last: commits stand still no longer than file systems may.
func (s *Session) freeze(ctx context.Context, args wire.FreezeArgs) (a wire.FreezeAnswer, err error) {
	back := context.WithoutCancel(ctx)
	if a.Scripts, err = s.scripts(ctx, phaseFreeze, args); err != nil {
		s.scripts(back, phaseFail, args)
		return a, err
	}
	ready, err := s.ready(ctx, args)
	if err != nil {
		s.scripts(back, phaseFail, args)
		return a, err
	}
	defer ready.Close()
	h := &hold{args: args, since: time.Now()}
	over := h.since.Add(time.Duration(args.HoldMillis) * time.Millisecond)
	still, cancel := context.WithDeadline(ctx, over)
	defer cancel()
	if s.prepared != nil {
		a.Applications = s.prepared.Hold(still)
	}
	err = safely(func() (err error) {
		h.frozen, err = ready.Freeze(still)
		return err
	})
	if err != nil {
		if s.prepared != nil {
			short, cancel := context.WithTimeout(back, letGoLimit)
			defer cancel()
			s.prepared.Resume(short)
		}
		s.scripts(back, phaseFail, args)
		return a, err
	}
	if h.frozen != nil {
		got := h.frozen.Answer()
		a.Frozen, a.Skipped = got.Frozen, got.Skipped
	}
	h.timer = time.AfterFunc(time.Until(over), func() { s.expire(h) })
	s.setFrozen(h)
	return a, nil
}

// ready is the freezer's, or one that freezes nothing.
func (s *Session) ready(ctx context.Context, args wire.FreezeArgs) (ready Ready, err error) {
	if s.agent.opts.Freezer == nil {
		return nothing{}, nil
	}
	err = safely(func() (err error) {
		ready, err = s.agent.opts.Freezer.Ready(ctx, args)
		return err
	})
	return ready, err
}

type nothing struct{}

func (nothing) Freeze(context.Context) (Frozen, error) { return nil, nil }
func (nothing) Close() error                           { return nil }

// expire is the end of a hold that nobody thawed.
func (s *Session) expire(h *hold) {
	<-s.stage // whoever has it thaws by itself, or is soon done
	if s.frozen == h {
		h.expired = true
		s.thawed, _ = s.thaw(context.Background())
	}
	s.stage <- struct{}{}
}

// doThaw is the verb. Its client may go; the thaw is carried out.
func (s *Session) doThaw(ctx context.Context, _ wire.ThawArgs) (a wire.ThawAnswer, err error) {
	s.cancelFreeze()
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	if s.frozen != nil {
		return s.thaw(ctx)
	}
	a, s.thawed = s.thawed, wire.ThawAnswer{}
	return a, nil
}

// thaw ends a freeze, for this session and for others. The caller has the stage.
func (s *Session) thaw(ctx context.Context) (wire.ThawAnswer, error) {
	defer func() { s.agent.freeze <- struct{}{} }()
	return s.goBack(ctx)
}

// goBack goes the way back, all of it, whatever fails. The thaw has a minute, with the applications'; scripts after it have
// what they were promised, whoever waits.
func (s *Session) goBack(ctx context.Context) (a wire.ThawAnswer, err error) {
	h, back := s.frozen, context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(back, letGoLimit)
	defer cancel()
	h.timer.Stop()
	a.Held = true
	if h.frozen != nil {
		err = safely(func() (err error) {
			a.Thawed, a.Held, err = h.frozen.Thaw(ctx)
			return err
		})
	}
	a.Held = a.Held && !h.expired && err == nil
	a.FrozenMicros = time.Since(h.since).Microseconds()
	s.setFrozen(nil)
	if s.prepared != nil {
		a.Applications = s.prepared.Resume(ctx)
	}
	a.Scripts, _ = s.scripts(back, phaseThaw, h.args)
	return a, err
}

// maxScripts is how many scripts at most are waited for.
const maxScripts = 64

// scriptSlack is for starting and stopping them.
const scriptSlack = 10 * time.Second

// scripts runs one phase where it was asked for. Each script has its limit, and all together have the sum.
func (s *Session) scripts(ctx context.Context, phase string, args wire.FreezeArgs) ([]wire.ScriptResult, error) {
	if !args.Scripts || s.agent.opts.Scripts == nil {
		return nil, nil
	}
	most := time.Duration(min(max(1, len(s.agent.opts.Scripts.List())), maxScripts))
	ctx, cancel := context.WithTimeout(ctx, most*time.Duration(args.ScriptMillis)*time.Millisecond+scriptSlack)
	defer cancel()
	return s.agent.opts.Scripts.Run(ctx, phase, args.ScriptMillis)
}

func (s *Session) setFrozen(h *hold) {
	s.frozen = h
	s.mu.Lock()
	s.holding = h != nil
	s.mu.Unlock()
}

func (s *Session) setUndo(cancel context.CancelFunc) {
	s.mu.Lock()
	s.undo = cancel
	s.mu.Unlock()
}

// cancelFreeze gives up a freeze that is under way: who thaws, removes or closes does not wait for it.
func (s *Session) cancelFreeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.undo != nil {
		s.undo()
	}
}
