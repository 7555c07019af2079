package kvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// pin is the moment: the guest's file systems are frozen, and from then on old data is kept. What is going to happen is
// written down before, so that nothing waits for the journal while the guest is frozen; and the pause last, because what
// was written down last is undone first, and a guest that stands still cannot thaw.
func (s *snapshot) pin(ctx context.Context, running bool) error {
	quiescer := s.opts.Quiescer // who brought it keeps a journal of its own: we could not undo it
	if quiescer == nil && running && s.asksAgent() {
		agent := &agentQuiescer{agent: s.machine.agent().open()}
		defer agent.Close()
		if err := s.intend(ctx, kindFreeze, map[string]string{"agent": s.machine.Agent, "process": processOf(s.mon)}); err != nil {
			return err
		}
		quiescer = agent
	}
	if running && len(s.Disks) > 1 && !s.byJob && !s.gates {
		if err := s.intend(ctx, kindPause, nil); err != nil {
			return err
		}
	}
	if !running {
		s.warn("the VM is not running (%s), its file systems were not frozen", s.vm.Facts["status"])
	}
	if own := s.arm(ctx, quiescer != nil && running); own != nil {
		quiescer = own
	}
	if !s.byJob {
		defer s.unguard()
	}
	if quiescer == nil || !running {
		return s.insert(ctx)
	}
	return s.quiesced(ctx, quiescer)
}

// asksAgent: a domain without the port has no agent to ask.
func (s *snapshot) asksAgent() bool {
	if s.machine.Domain != nil {
		return hasAgent(s.vm.Config["domain.xml"])
	}
	return s.machine.Agent != ""
}

// arm arms the guard, where there is one and something for it to do: a guest that is frozen by its agent, or a backup
// job, which stops the guest when the disk is full and nobody watches. It returns what freezes by the guard, nil where the
// session does that by itself.
func (s *snapshot) arm(ctx context.Context, freezes bool) hikae.Quiescer {
	freezes = freezes && s.opts.Quiescer == nil
	if !freezes && !s.byJob {
		return nil
	}
	guard := s.provider.opts.Guard
	if guard == nil {
		if s.byJob {
			s.warn("nobody would give the snapshot up if this process died and the disk of %s became full: the guest would stop", s.Dir)
		}
		return nil
	}
	charge, err := s.charge(freezes)
	var watch Watch
	if err == nil {
		watch, err = guard(ctx, charge)
	}
	if err != nil {
		s.warn("nobody would look after the guest if this process died: %v", err)
		return nil
	}
	s.unguard = func() {
		s.unguard = func() {}
		if err := watch.Release(); err != nil {
			s.warn("the guard of the guest: %v", err)
		}
	}
	if !freezes {
		return nil
	}
	return watch.Quiescer
}

// quiesced takes the snapshot while the guest is frozen. It is thawed on every path; where nobody confirms that, the
// effect stays in the journal and the snapshot fails, unless the guest thaws by itself: then the snapshot waits until it
// has, and is as after a power cut. A guest that cannot be frozen is pinned as it is.
func (s *snapshot) quiesced(ctx context.Context, q hikae.Quiescer) error {
	begun := time.Now()
	getting, cancel := context.WithTimeout(ctx, s.opts.FreezeDeadline+hikae.PatienceOf(q))
	defer cancel()
	froze := q.Freeze(getting)
	if froze == nil {
		cold, cancel := context.WithTimeout(getting, s.opts.FreezeDeadline)
		defer cancel()
		err := s.insert(cold)
		thawed := s.thawOrWait(ctx, q)
		if thawed != nil && !errors.Is(thawed, errLate) {
			return errors.Join(err, thawed)
		}
		if thawed != nil {
			s.warn("the guest was thawed before the snapshot was taken, or might have been: %v", thawed)
			return err
		}
		s.consistency = hikae.Filesystem
		s.vm.Facts["frozen"] = time.Since(begun).Round(time.Millisecond).String() // with the agent's way there and back
		return err
	}
	if !untouched(froze) {
		if err := s.thawOrWait(ctx, q); err != nil && !errors.Is(err, errLate) {
			return err
		}
	}
	s.warn("the guest could not be frozen: %v", froze)
	return errors.Join(s.settle(ctx, kindFreeze), s.insert(ctx))
}

// thawOrWait thaws. Where the answer is lost and the guest thaws by itself, it waits until that is over, and the error is
// errLate: who brought the quiescer judges that when it is asked how it went.
func (s *snapshot) thawOrWait(ctx context.Context, q hikae.Quiescer) error {
	lost := s.thaw(ctx, q)
	alone, ok := q.(hikae.SelfThawing)
	var answer *hikae.QuiesceError
	if lost == nil || !ok || !errors.As(lost, &answer) {
		return lost
	}
	// Everything that could freeze was begun before thaw was asked for, so the whole time from now on is enough.
	wait := time.NewTimer(min(max(0, alone.ThawsWithin()), maxThawsWithin))
	defer wait.Stop()
	<-wait.C
	return fmt.Errorf("%w: no answer to thaw, the guest has done it by itself: %w", errLate, lost)
}

// maxThawsWithin bounds that wait: no watchdog of ours waits for longer than a minute.
const maxThawsWithin = 2 * time.Minute

// thaw has time of its own: a cancelled session must not leave a frozen guest. errLate says that it is thawed, too.
func (s *snapshot) thaw(ctx context.Context, q hikae.Quiescer) error {
	warm, stop := context.WithTimeout(context.WithoutCancel(ctx), s.provider.opts.ThawTimeout+hikae.PatienceOf(q))
	defer stop()
	thawed := q.Thaw(warm)
	if thawed != nil && !errors.Is(thawed, errLate) {
		return &hikae.QuiesceError{Stage: "thaw", Err: thawed}
	}
	if err := s.settle(warm, kindFreeze); err != nil {
		return err
	}
	return thawed
}

// untouched: the agent was not there before anything was asked of it, or somebody else froze the guest. Then there is
// nothing that would be ours to thaw.
func untouched(froze error) bool {
	return errors.Is(froze, qga.ErrSilent) || errors.Is(froze, qga.ErrFrozen) || gone(froze)
}

// insert is the moment itself, one for all disks, by what this QEMU and this monitor can do:
//
//	backup jobs   QEMU before 7.1       all are started in one transaction
//	gates         libvirt, many disks   one command opens all gates onto the filters, with all disks drained
//	filters       else                  one command for each disk; if many, in one message while QEMU stands still
func (s *snapshot) insert(ctx context.Context) error {
	switch {
	case s.byJob:
		return s.startJobs(ctx)
	case s.gates:
		return s.openGates(ctx)
	}
	return s.setFilters(ctx)
}

// setFilters puts the filters below the devices. Where there are several, QEMU stands still meanwhile, and what lets it
// go on is in the same message.
func (s *snapshot) setFilters(ctx context.Context) error {
	_, pause := s.done[kindPause]
	var cmds []*qmp.Command
	if pause {
		cmds = append(cmds, &qmp.Command{Name: "stop"})
	}
	for i, d := range s.Disks {
		cmds = append(cmds, &qmp.Command{Name: "qom-set", Args: drive(d, s.filter(i))})
	}
	if pause {
		cmds = append(cmds, &qmp.Command{Name: "cont"})
	}
	if err := s.runAll(ctx, cmds); err != nil {
		return err
	}
	var errs []error
	for _, c := range cmds {
		errs = append(errs, c.Err)
	}
	if pause && cmds[len(cmds)-1].Err == nil {
		errs = append(errs, s.settle(ctx, kindPause))
	}
	return errors.Join(errs...)
}

// runAll runs commands in one message. A monitor that takes one at a time gets one.
func (s *snapshot) runAll(ctx context.Context, cmds []*qmp.Command) error {
	if b, ok := s.mon.(batcher); ok {
		return b.Batch(ctx, cmds)
	}
	for _, c := range cmds {
		if err := s.mon.Execute(ctx, c.Name, c.Args, c.Out); err != nil {
			return err
		}
	}
	return nil
}

// drive is what puts a node below a device.
func drive(d disk, node string) map[string]any {
	return map[string]any{"path": d.QDev, "property": "drive", "value": node}
}

// openGates lets all gates lead through their filters. QEMU drains all of them before it changes the first, and lets
// requests in again after the last: so it is one moment for all disks, and the guest does not stop. There is nothing in
// between that a kill could leave.
func (s *snapshot) openGates(ctx context.Context) error {
	var gates []any
	for i := range s.Disks {
		gates = append(gates, s.gateOnto(i, s.filter(i)))
	}
	return s.mon.Execute(ctx, "blockdev-reopen", map[string]any{"options": gates}, nil)
}

// startJobs starts backup jobs that copy nothing by themselves: they keep what the guest is about to overwrite.
func (s *snapshot) startJobs(ctx context.Context) error {
	var actions []any
	for i, d := range s.Disks {
		actions = append(actions, action("blockdev-backup", map[string]any{
			"job-id": s.job(i), "device": d.Node, "target": s.fleece(i), "sync": "none",
		}))
	}
	if err := transaction(ctx, s.mon, actions); err != nil {
		return err
	}
	s.startWatch()
	return nil
}
