package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// GuestWork is what a backup does inside the VM around its snapshot (R119, R144): a guest.Session, or anything else that
// makes a guest consistent. Its methods are called in this order, by one goroutine:
//
//	Begin        before the snapshot: components are brought in, applications get ready
//	Freeze Thaw  by the provider, right around its atomic step
//	Finish       after the snapshot, before the copy: applications go on
//	Keep         into the point that is being written; again where the point is begun anew
//	Settle       whether there is a durable point that applications can go back to
//	Close        always: nothing of ours stays in the guest
//
// Whether a failure fails the VM or is a warning is its own policy: what it returns as an error fails the backup.
type GuestWork interface {
	hikae.Quiescer
	Begin(ctx context.Context) error
	Finish(ctx context.Context) error
	// Keep hands what a restore needs to put: small files, an index. Names begin with "guest/".
	Keep(ctx context.Context, put func(name string, content io.Reader) error) error
	// Settle tells the applications, and lets them go. With true a point is durable, and it holds the applications in a
	// state of their own: host and guest both say that it reached hikae.Application. Logs are dropped for that alone, so a
	// durable point that is less is false to them.
	Settle(ctx context.Context, durable bool) error
	Close(ctx context.Context) error
	// Reached is what the snapshot is good for as far as the guest tells, and what was done, for the report.
	Reached() (hikae.Consistency, GuestResult)
}

// GuestResult is what happened inside a VM.
type GuestResult = guest.Result

var _ GuestWork = (*guest.Session)(nil)

// quiescer is who freezes for the provider.
func (s *backup) quiescer() hikae.Quiescer {
	if s.opts.Guest != nil {
		return s.opts.Guest
	}
	return s.opts.Quiescer
}

// beginGuest gets the guest ready. What it returns ends the guest's work, on every path.
func (s *backup) beginGuest(ctx context.Context) (end func(error) error, err error) {
	g := s.opts.Guest
	if g == nil {
		return func(err error) error { return err }, nil
	}
	s.phase(PhaseGuest)
	if err := g.Begin(ctx); err != nil {
		return nil, s.endGuest(ctx, fmt.Errorf("guest of %s: %w", s.plan.Name, err))
	}
	return func(err error) error { return s.endGuest(ctx, err) }, nil
}

// finishGuest lets the applications go on. The copy takes long, and none waits for it.
func (s *backup) finishGuest(ctx context.Context) error {
	if s.opts.Guest == nil {
		return nil
	}
	if err := s.opts.Guest.Finish(ctx); err != nil {
		return fmt.Errorf("guest of %s: %w", s.plan.Name, err)
	}
	return nil
}

// reached is what the snapshot is good for. The provider knows whether it was taken while everything stood still, the
// guest whether its applications had been made ready for that: neither alone can promise more than file systems.
func (s *backup) reached() hikae.Consistency {
	host := s.snap.Consistency()
	if s.opts.Guest == nil || host != hikae.Filesystem {
		return host
	}
	inside, _ := s.opts.Guest.Reached()
	return min(inside, hikae.Application)
}

// keepGuest writes what the guest gave into the point.
func (s *backup) keepGuest(ctx context.Context, put func(context.Context, string, io.Reader) error) error {
	if s.opts.Guest == nil {
		return nil
	}
	err := s.opts.Guest.Keep(ctx, func(name string, r io.Reader) error { return put(ctx, name, r) })
	if err != nil {
		return fmt.Errorf("what the guest of %s gave: %w", s.plan.Name, err)
	}
	return nil
}

// settleGuest tells the applications, with time of its own: the point stands, whatever became of the context. One that
// is as after a power cut, or without the applications, is none that they may drop logs for.
func (s *backup) settleGuest(ctx context.Context) {
	if s.opts.Guest == nil {
		return
	}
	whole := s.reached() == hikae.Application
	err := s.inGuest(ctx, func(ctx context.Context) error { return s.opts.Guest.Settle(ctx, whole) })
	if err != nil {
		s.warn("the point is durable, but the guest's applications could not be told: %v", err)
	}
}

// endGuest takes everything of ours out of the guest again, and reports on it.
func (s *backup) endGuest(ctx context.Context, failed error) error {
	g := s.opts.Guest
	var err error
	if s.res.Point == "" {
		err = s.inGuest(ctx, func(ctx context.Context) error { return g.Settle(ctx, false) })
	}
	err = errors.Join(err, s.inGuest(ctx, g.Close))
	_, res := g.Reached()
	for _, text := range res.Warnings {
		s.warn("guest: %s", text)
	}
	s.res.Guest = &res
	if err == nil {
		return failed
	}
	err = fmt.Errorf("clean up the guest of %s: %w", s.plan.Name, err)
	if failed == nil {
		s.warn("%v; the next start of a session sweeps what is left", err)
		return nil
	}
	return errors.Join(failed, err)
}

// inGuest does one thing with a time of its own: applications that do not answer must not take it from the removal.
func (s *backup) inGuest(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := s.guestTime(ctx)
	defer cancel()
	return do(ctx)
}

// guestTime bounds what is done in the guest when the context may be over.
func (s *backup) guestTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), min(s.opts.ReleaseDeadline, guestDeadline))
}

// A guest that does not answer must not hold up the release of its snapshot for long.
const guestDeadline = 2 * time.Minute
