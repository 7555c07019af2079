package hyperv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// onHostProduction is procedure 3 on the host: each VM by itself, as nothing is shared.
//
//	look      who else is at work here?
//	write     the journal has the checkpoint before the host is asked for it
//	pin       R090 the checkpoint is requested; R091 the guest brings its data to a consistent state, or a quiescer of the
//	          caller does; R092 each disk gets a child, and all new writes go there
//	adopt     what was pinned: configuration and disks, all from the checkpoint
//	…         R094 disks are read, which nobody writes to any more; changes are asked for
//	Prepare   the checkpoint becomes a reference point: the ids of its moment stay, and it goes
//	Commit    the reference point of the old base goes
//	Release   what is left goes; R095 the host merges the children, and is waited for
type onHostProduction struct{ p *Provider }

func (o onHostProduction) pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	failed := failures{}
	var out []hikae.Snapshot
	for _, vm := range vms {
		s, err := o.p.checkpoint(ctx, vm, opts)
		if err == nil {
			if err = s.inspectAll(ctx); err != nil {
				err = errors.Join(err, releaseSnapshots(ctx, []hikae.Snapshot{s}))
			}
		}
		if err != nil {
			failed.add(vm, err)
			continue
		}
		out = append(out, s)
	}
	return out, failed.err()
}

// checkpointed makes one VM's checkpoint, for whoever reads its files elsewhere.
func (p *Provider) checkpointed(ctx context.Context, vm *planned, opts *hikae.SnapshotOptions) ([]elsewhere, error) {
	s, err := p.checkpoint(ctx, vm, opts)
	if err != nil {
		return nil, err
	}
	return []elsewhere{s}, nil
}

// checkpoint is the story of a snapshot up to where its files are known. On error it has undone what it made.
func (p *Provider) checkpoint(ctx context.Context, vm *planned, opts *hikae.SnapshotOptions) (*snapshot, error) {
	s := &snapshot{p: p, planned: vm, consistency: hikae.Crash, disks: map[string]*pinnedDisk{}, open: map[*checkpointImage]bool{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.FreezeDeadline <= 0 {
		s.opts.FreezeDeadline = freezeDeadline
	}
	var err error
	if s.free, err = p.occupy(vm.machine.ID); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{{"look", s.look}, {"checkpoint", s.pin}, {"read the checkpoint", s.adopt}} {
		if err := step.run(ctx); err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
			defer cancel()
			return nil, errors.Join(fmt.Errorf("%s: %w", step.name, err), s.Release(undo))
		}
	}
	return s, nil
}

const freezeDeadline = 10 * time.Second

// look refuses a VM that another session of this program is at work on, and waits for what its host is still doing with it.
func (s *snapshot) look(ctx context.Context) error {
	id := s.planned.machine.ID
	wait := firstPause
	for deadline := time.Now().Add(s.p.opts.CheckpointLimit); ; wait = min(2*wait, pollEvery) {
		m, err := s.planned.host.Machine(ctx, id)
		if err != nil {
			return err
		}
		if !m.doing(statusSnapshotting, statusDeleting, statusWaiting, statusMerging) {
			s.planned.machine = m
			break
		}
		if time.Now().After(deadline) {
			return &hikae.BusyError{What: "VM " + id, Owner: fmt.Sprintf("its host, which makes, removes or merges a checkpoint (status %v)", m.Status)}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	list, err := s.planned.host.checkpoints(ctx, id)
	if err != nil {
		return err
	}
	if ours := ourCheckpoints(list); len(ours) > 0 {
		return &hikae.BusyError{What: "VM " + id, Owner: fmt.Sprintf("another session, alive or dead and not yet swept (checkpoint %q)", ours[0].Text("ElementName"))}
	}
	s.marked, err = s.p.newMarked(ctx, s.opts.Journal, s.planned, list)
	return err
}

// pin is the moment.
//
//	the VM is off           nothing to quiesce; a checkpoint all the same, because it may be started while it is read
//	the caller's quiescer   freeze, checkpoint as after a power cut, thaw
//	else                    the host quiesces the guest, by the policy; it must not fall back by itself, so it is asked for
//	                        exactly one level
func (s *snapshot) pin(ctx context.Context) error {
	switch m := s.planned.machine; {
	case m.State == Off:
		s.consistency = hikae.Offline
		return s.create(ctx, levelCrash)
	case !m.runs():
		s.warn("the VM is %s: its guest was not quiesced", m.State)
		return s.create(ctx, levelCrash)
	case s.opts.Quiescer != nil:
		return s.pinFrozen(ctx, s.opts.Quiescer)
	case s.p.opts.Quiesce == NoQuiesce:
		return s.create(ctx, levelCrash)
	}
	err := s.create(ctx, levelApplication)
	var refused *cim.ReturnError
	var failed *cim.JobError
	switch {
	case err == nil && s.marked.unsure:
		return s.unsure()
	case err == nil:
		s.consistency = hikae.Application
		if s.planned.host.guestIsLinux(ctx, s.planned.machine.ID) {
			s.consistency = hikae.Filesystem // R083: there are no writers that would be asked
		}
		return nil
	case ctx.Err() != nil || !errors.As(err, &failed) && !errors.As(err, &refused) || errors.Is(err, cim.ErrBusy):
		return err
	}
	if left := s.marked.vanish(ctx); left != nil {
		return errors.Join(err, left)
	}
	return s.unquiesced(ctx, "snapshot", err)
}

// unsure is where the checkpoint is there, and the host's word on how it was made was lost.
func (s *snapshot) unsure() error {
	why := errors.New("the host's answer was lost, and whether the guest was quiesced is not known")
	if s.p.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: "snapshot", Err: why}
	}
	s.warn("the checkpoint is taken for one as after a power cut: %v", why)
	return nil
}

func (m *Machine) runs() bool { return m.State == Running }

func (s *snapshot) create(ctx context.Context, level uint8) error {
	w := wish{level: level, full: s.p.opts.Full}
	for i := range s.planned.machine.Disks {
		w.ignore = w.ignore || s.planned.machine.Disks[i].uncovered() != ""
	}
	err := s.marked.create(ctx, w)
	if err == nil && s.marked.warning != "" {
		s.warn("the host made the checkpoint with warnings: %s", s.marked.warning)
		s.marked.warning = ""
	}
	if errors.Is(err, cim.ErrBusy) || errors.Is(err, errState) {
		return errors.Join(&hikae.BusyError{What: "VM " + s.planned.machine.ID, Owner: "its host, which has other work with it"}, err)
	}
	return err
}

// unquiesced goes on without a quiet guest, where the policy lets it. It is never done silently.
func (s *snapshot) unquiesced(ctx context.Context, stage string, why error) error {
	if s.p.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: stage, Err: why}
	}
	s.warn("the guest could not be quiesced, the checkpoint is as after a power cut: %v", why)
	return s.create(ctx, levelCrash)
}

// pinFrozen makes the checkpoint while the caller's quiescer holds the guest still. The guest is thawed on every path, and at the
// latest when FreezeDeadline is over: a host that is slow gets its checkpoint later, as after a power cut.
func (s *snapshot) pinFrozen(ctx context.Context, q hikae.Quiescer) error {
	getting, cancel := context.WithTimeout(ctx, s.opts.FreezeDeadline+hikae.PatienceOf(q))
	defer cancel()
	begun := time.Now()
	if froze := q.Freeze(getting); froze != nil {
		if err := thaw(ctx, q); err != nil && !errors.Is(err, hikae.ErrThawedEarly) {
			return errors.Join(fmt.Errorf("freeze: %w", froze), err)
		}
		return s.unquiesced(ctx, "freeze", froze)
	}
	made := make(chan error, 1)
	go func() { made <- s.create(ctx, levelCrash) }()
	cold := time.NewTimer(s.opts.FreezeDeadline)
	defer cold.Stop()
	var err error
	late := false
	select {
	case err = <-made:
	case <-cold.C:
		late = true
	}
	thawed := thaw(ctx, q)
	if late {
		err = <-made
	}
	switch {
	case err != nil:
		return errors.Join(err, thawed)
	case thawed != nil && !errors.Is(thawed, hikae.ErrThawedEarly):
		return thawed
	case thawed == nil && !late:
		s.consistency = hikae.Filesystem // what the caller did to applications, the caller knows
		s.frozen = time.Since(begun).Round(time.Millisecond).String()
		return nil
	case thawed == nil:
		thawed = fmt.Errorf("the checkpoint took longer than %v", s.opts.FreezeDeadline)
	}
	if s.p.opts.Quiesce == RequireQuiesce {
		return &hikae.QuiesceError{Stage: "thaw", Err: thawed}
	}
	s.warn("the guest was thawed before the checkpoint was made, or might have been: %v", thawed)
	return nil
}

const (
	thawDeadline   = time.Minute
	maxThawsWithin = 2 * time.Minute // no watchdog of a guest's component waits longer
)

// thaw thaws, with time of its own: a cancelled session must not leave a frozen guest. Where the answer is lost and the guest
// thaws by itself, it waits until that is over; the error wraps hikae.ErrThawedEarly then.
func thaw(ctx context.Context, q hikae.Quiescer) error {
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

// guestIsLinux asks what the guest told the host of itself. Where it told nothing, the host's word that the checkpoint is consistent
// for applications stands.
func (h *Host) guestIsLinux(ctx context.Context, vm string) bool {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := cim.One(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM Msvm_KvpExchangeComponent WHERE SystemName = "+cim.Quote(vm), nil))
	if err != nil {
		return false
	}
	var told struct {
		Items []*cim.Instance `cim:"GuestIntrinsicExchangeItems"`
	}
	if in.Decode(&told) != nil {
		return false
	}
	for _, item := range told.Items {
		if item != nil && item.Text("Name") == "OSName" {
			return strings.Contains(strings.ToLower(item.Text("Data")), "linux")
		}
	}
	return false
}
