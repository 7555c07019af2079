package vmware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// kindTracking is that tracking is off for the time of a reset. Enabling it is no effect: it stays, because others may rely
// on it as soon as it is on, and turning it off would lose their changes.
const kindTracking = "vmware.tracking"

// ErrHasSnapshots is wrapped where changed-block tracking cannot be turned on or off because the VM has snapshots: a server
// does not refuse that, and loses changes without a word (VMware KB 1020128).
var ErrHasSnapshots = errors.New("the VM has snapshots")

// track sees to it that changes are tracked, where that may be. That they cannot be does not fail the snapshot: everything is
// read and compared then.
func (s *snapshot) track(ctx context.Context) error {
	begin, why := s.trackingWanted()
	s.untracked = why
	if begin == nil {
		return nil
	}
	err := begin(ctx, s.opts.Journal, s.was, s.cycle)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.untracked = fmt.Sprintf("tracking could not be begun: %v", err)
		s.warn("changed-block tracking could not be begun: %v", err)
	}
	if err := s.leftCycle(); err != nil {
		return err
	}
	s.was, err = s.client.machine(ctx, s.ref)
	return err
}

// beginTracking is what makes tracking begin. keep is shown each snapshot that is made for it.
type beginTracking func(ctx context.Context, journal hikae.Journal, m *machine, keep func(*marked)) error

// trackingWanted is what has to be done for tracking, nil where nothing has; and why changes are not tracked, if they are not.
func (s *snapshot) trackingWanted() (begin beginTracking, why string) {
	on := isTrue(s.was.Config.ChangeTrackingEnabled)
	reset := on && s.provider.opts.ResetTrackingOnFull && len(s.opts.Since) == 0
	asleep := on && s.was.trackingSleeps()
	switch {
	case !s.was.Capability.ChangeTrackingSupported:
		return nil, "its virtual hardware (" + s.was.Config.Version + ") has no changed-block tracking"
	case on && !reset && !asleep:
		return nil, ""
	case len(firstClass(s.was.disks)) > 0:
		return nil, "tracking is not begun for a VM with first-class disks"
	case s.provider.opts.KeepTracking && !reset:
		return nil, "changed-block tracking is left as it is: off, or not begun"
	case len(s.was.tree.nodes) > 0 && on:
		return nil, "changed-block tracking cannot be begun while the VM has snapshots"
	case len(s.was.tree.nodes) > 0:
		return nil, "changed-block tracking is off, and cannot be enabled while the VM has snapshots"
	case reset:
		return s.client.resetTracking, ""
	case asleep:
		return s.client.runCycle, ""
	}
	return s.client.enableTracking, ""
}

// trackingSleeps reports whether tracking is enabled and has not begun: the VM has not stood still since, not for a moment. A
// disk that is exempt by the VM's settings never begins.
func (m *machine) trackingSleeps() bool {
	exempt := map[string]bool{}
	for _, o := range m.Config.ExtraConfig {
		v := o.GetOptionValue()
		if text, ok := v.Value.(string); ok && strings.EqualFold(text, "false") {
			exempt[strings.ToLower(v.Key)] = true
		}
	}
	return slices.ContainsFunc(m.disks, func(d Disk) bool {
		return d.Skip == "" && d.ChangeID == "" && !exempt[strings.ToLower(d.Slot)+".ctkenabled"]
	})
}

// leftCycle: a snapshot that was made to begin tracking and could not be removed is in the way of the real one.
func (s *snapshot) leftCycle() error {
	for _, k := range s.cycles {
		if k.done != nil {
			return fmt.Errorf("the snapshot that began tracking (%s) could not be removed", k.name)
		}
	}
	s.cycles = nil
	return nil
}

// cycle keeps a snapshot for Release, in case it cannot be removed at once.
func (s *snapshot) cycle(k *marked) { s.cycles = append(s.cycles, k) }

// ResetTracking begins the changed-block tracking of a VM anew: it is turned off and on again, each made to hold by a snapshot
// that is removed at once. Every change id of the VM is void then, also those of other programs. That repairs what was found
// to tell wrong changes; reading everything does not. It wraps ErrHasSnapshots where it cannot be done.
func (p *Provider) ResetTracking(ctx context.Context, id string, journal hikae.Journal) (err error) {
	vm, err := p.find(id)
	if err != nil {
		return err
	}
	free, err := p.occupy(vm)
	if err != nil {
		return err
	}
	defer free()
	s := &snapshot{provider: p, client: p.client, ref: vm}
	defer func() {
		if err != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoDeadline)
			defer cancel()
			err = errors.Join(fmt.Errorf("reset tracking of VM %s: %w", id, err), s.removeAll(end))
		}
	}()
	if s.was, err = p.client.machine(ctx, vm); err != nil {
		return err
	}
	if err := s.alone(ctx); err != nil {
		return err
	}
	if !s.was.Capability.ChangeTrackingSupported {
		return fmt.Errorf("its virtual hardware (%s): %w", s.was.Config.Version, errors.ErrUnsupported)
	}
	return p.client.resetTracking(ctx, journal, s.was, s.cycle)
}

func (c *Client) resetTracking(ctx context.Context, journal hikae.Journal, m *machine, keep func(*marked)) error {
	if len(m.tree.nodes) > 0 {
		return ErrHasSnapshots
	}
	done, err := intend(ctx, journal, c.effect(kindTracking, m.Self.Value, map[string]string{"uuid": m.Config.InstanceUuid}))
	if err != nil {
		return err
	}
	err = c.setTracking(ctx, m.Self, false)
	if err == nil {
		err = c.runCycle(ctx, journal, m, keep)
	}
	if err == nil {
		err = c.enableTracking(ctx, journal, m, keep)
	}
	if err != nil {
		return err // the effect stays: a sweep enables it again
	}
	return done(ctx)
}

// enableTracking enables tracking and makes it begin, which is when the VM next stands still for a moment.
func (c *Client) enableTracking(ctx context.Context, journal hikae.Journal, m *machine, keep func(*marked)) error {
	if err := c.setTracking(ctx, m.Self, true); err != nil {
		return err
	}
	return c.runCycle(ctx, journal, m, keep)
}

func (c *Client) setTracking(ctx context.Context, vm types.ManagedObjectReference, on bool) error {
	res, err := methods.ReconfigVM_Task(ctx, c.vim, &types.ReconfigVM_Task{This: vm, Spec: types.VirtualMachineConfigSpec{ChangeTrackingEnabled: &on}})
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return fmt.Errorf("change tracking to %v: %w", on, err)
	}
	return nil
}

// runCycle makes a snapshot and removes it.
func (c *Client) runCycle(ctx context.Context, journal hikae.Journal, m *machine, keep func(*marked)) error {
	k, err := c.newMarked(ctx, journal, m)
	if err != nil {
		return err
	}
	keep(k)
	return errors.Join(k.create(ctx, nil), k.remove(ctx))
}

// undoTracking enables tracking that a reset left off.
func undoTracking(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	vm, found, err := c.sameVM(ctx, e)
	if err != nil || !found {
		return err
	}
	m, err := c.machine(ctx, vm)
	if err != nil || isTrue(m.Config.ChangeTrackingEnabled) {
		return err
	}
	if len(m.tree.nodes) > 0 {
		return fmt.Errorf("enable tracking of VM %s again: %w", vm.Value, ErrHasSnapshots)
	}
	return c.setTracking(ctx, vm, true)
}
