package vmware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// pin is the moment:
//
//	the VM is off            nothing to quiesce; a snapshot all the same, because it may be started while it is read
//	the caller's quiescer    freeze, snapshot without VMware's quiescing, thaw
//	else                     VMware Tools, by the provider's policy
func (s *snapshot) pin(ctx context.Context) error {
	switch {
	case s.was.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff:
		s.consistency = hikae.Offline
		return s.pinned.create(ctx, nil)
	case !s.was.on():
		s.warn("the VM is %s, its guest was not quiesced", s.was.Runtime.PowerState)
		return s.pinned.create(ctx, nil)
	case s.opts.Quiescer != nil:
		return s.pinFrozen(ctx, s.opts.Quiescer)
	case s.provider.opts.Quiesce == NoQuiesce:
		return s.pinned.create(ctx, nil)
	}
	return s.pinByTools(ctx)
}

// pinByTools has VMware Tools quiesce the guest.
func (s *snapshot) pinByTools(ctx context.Context) error {
	if !s.was.toolsRun() {
		return s.unquiesced(ctx, "find", errors.New("VMware Tools do not run in the guest"))
	}
	by := s.client.quiesceSpec(s.was, s.provider.opts.QuiesceTimeout)
	err := s.pinned.create(ctx, by)
	if err != nil && by.spec != nil && cannot(err) && !notQuiesced(err) {
		by = &quiesceBy{}
		err = s.pinned.create(ctx, by)
	}
	switch {
	case err == nil && by.spec != nil:
		s.toolsAsked = true
		s.consistency = hikae.Application
	case err == nil:
		s.toolsAsked = true
		s.consistency = hikae.Filesystem
	case notQuiesced(err):
		if left := s.pinned.vanish(ctx); left != nil {
			return errors.Join(err, left)
		}
		return s.unquiesced(ctx, "snapshot", err)
	}
	return err
}

// trustQuiesced takes the server's word for whether the guest was quiet: where Tools do not answer, or end in between, a host
// takes the snapshot all the same, and no fault tells.
func (s *snapshot) trustQuiesced() error {
	if !s.toolsAsked || s.node.quiesced {
		return nil
	}
	s.consistency = hikae.Crash
	why := errors.New("VMware Tools were asked, and the server says that the snapshot is not quiesced")
	if s.provider.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: "snapshot", Err: why}
	}
	s.warn("the guest was not quiesced, the snapshot is as after a power cut: %v", why)
	return nil
}

// unquiesced goes on without a quiet guest, where the policy lets it.
func (s *snapshot) unquiesced(ctx context.Context, stage string, why error) error {
	if s.provider.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: stage, Err: why}
	}
	s.warn("the guest could not be quiesced, the snapshot is as after a power cut: %v", why)
	return s.pinned.create(ctx, nil)
}

// pinFrozen takes the snapshot while the caller's quiescer holds the guest still. The guest is thawed on every path, and at
// the latest when FreezeDeadline is over: a host that is slow gets its snapshot later, as after a power cut.
func (s *snapshot) pinFrozen(ctx context.Context, q hikae.Quiescer) error {
	getting, cancel := context.WithTimeout(ctx, s.opts.FreezeDeadline+hikae.PatienceOf(q))
	defer cancel()
	begun := time.Now()
	if froze := q.Freeze(getting); froze != nil {
		if err := s.thaw(ctx, q); err != nil && !errors.Is(err, hikae.ErrThawedEarly) {
			return errors.Join(fmt.Errorf("freeze: %w", froze), err)
		}
		return s.unquiesced(ctx, "freeze", froze)
	}
	made := make(chan error, 1) // asked for by another goroutine: to stop waiting would cancel the snapshot
	go func() { made <- s.pinned.create(ctx, nil) }()
	cold := time.NewTimer(s.opts.FreezeDeadline)
	defer cold.Stop()
	var err error
	late := false
	select {
	case err = <-made:
	case <-cold.C:
		late = true
	}
	thawed := s.thaw(ctx, q)
	if late {
		err = <-made
	}
	switch {
	case err != nil:
		return errors.Join(err, thawed)
	case thawed != nil && !errors.Is(thawed, hikae.ErrThawedEarly):
		return thawed
	case thawed == nil && !late:
		s.consistency = hikae.Filesystem
		s.vm.Facts["frozen"] = time.Since(begun).Round(time.Millisecond).String()
		return nil
	case thawed == nil:
		thawed = fmt.Errorf("the snapshot took longer than %v", s.opts.FreezeDeadline)
	}
	if s.provider.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: "thaw", Err: thawed}
	}
	s.warn("the guest was thawed before the snapshot was taken, or might have been: %v", thawed)
	return nil
}

const (
	thawDeadline   = time.Minute
	maxThawsWithin = 2 * time.Minute // no watchdog of a guest's component waits longer
)

// thaw thaws, with time of its own: a cancelled session must not leave a frozen guest. Where the answer is lost and the guest
// thaws by itself, it waits until that is over; the error wraps hikae.ErrThawedEarly then.
func (s *snapshot) thaw(ctx context.Context, q hikae.Quiescer) error {
	warm, stop := context.WithTimeout(context.WithoutCancel(ctx), thawDeadline+hikae.PatienceOf(q))
	defer stop()
	lost := q.Thaw(warm)
	if lost == nil || errors.Is(lost, hikae.ErrThawedEarly) {
		return lost
	}
	alone, ok := q.(hikae.SelfThawing)
	if !ok {
		return &hikae.QuiesceError{Stage: "thaw", Err: lost}
	}
	wait := time.NewTimer(min(max(0, alone.ThawsWithin()), maxThawsWithin))
	defer wait.Stop()
	<-wait.C
	return fmt.Errorf("%w: no answer to thaw, the guest has done it by itself: %w", hikae.ErrThawedEarly, lost)
}
