package kvm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae"
)

const freezeDeadline = 10 * time.Second

// snapshot is one pinned moment. Its methods are called one at a time, but for OpenDisk and Changed.
type snapshot struct {
	provider *Provider
	machine  Machine
	opts     hikae.SnapshotOptions
	footprint

	vm          hikae.VM
	consistency hikae.Consistency
	warnings    []string
	reasons     map[string]string // by key, why the base's bitmap cannot be used

	owner owner // of the files that QEMU uses
	byJob bool  // old data is kept by backup jobs, which somebody must watch, and not by filters
	gates bool  // filters are put in by one command, below nodes that are there before

	mon       monitor // while the monitor is held
	watch     *watch  // with backup jobs, from the snapshot's moment to its release
	unguard   func()  // lets the guard go, where one is armed
	broken    atomic.Pointer[error]
	done      map[string]func(context.Context) error
	early     bool // an unfinished point names the new bitmaps
	committed bool
}

// Snapshot implements [hikae.SnapshotProvider]. It is a [job.Warner].
func (p *Provider) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	m, err := p.machine(id)
	if err != nil {
		return nil, err
	}
	s := &snapshot{provider: p, machine: m, footprint: newFootprint(m.QMP), consistency: hikae.Crash,
		reasons: map[string]string{}, unguard: func() {}, done: map[string]func(context.Context) error{}}
	s.Domain = m.Domain
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.FreezeDeadline <= 0 {
		s.opts.FreezeDeadline = freezeDeadline
	}
	err = s.take(ctx)
	if m.isOff(err) && len(s.done) == 0 {
		return p.snapshotOff(ctx, m, s.opts)
	}
	if err != nil {
		host, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(err, s.Release(host))
	}
	return s, nil
}

// take is the story of a snapshot: what comes before the moment, the moment, what comes after.
func (s *snapshot) take(ctx context.Context) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.disconnect()
	inv, err := s.look(ctx)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"begin to track", s.addBitmaps}, {"fleecing image", s.addFleece},
		{"snapshot", func(ctx context.Context) error { return s.pin(ctx, inv.running()) }},
		{"read the base's changes", s.copyBase}, {"export", s.addExports},
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// connect takes the monitor, for as long as it is needed.
func (s *snapshot) connect(ctx context.Context) (err error) {
	if s.mon == nil {
		s.mon, err = s.provider.monitor(ctx, s.machine)
	}
	return err
}

// disconnect gives the monitor back, unless the snapshot is watched by it.
func (s *snapshot) disconnect() {
	if s.mon != nil && s.watch == nil {
		s.mon.Close()
		s.mon = nil
	}
}

// look finds out what there is, and refuses a machine that another session is at work on, or that is on its way.
func (s *snapshot) look(ctx context.Context) (*inventory, error) {
	inv, err := takeInventory(ctx, s.mon)
	if err != nil {
		return nil, err
	}
	if !inv.version.AtLeast(4, 2) {
		return nil, fmt.Errorf("%w: this is %v", ErrOldQEMU, inv.version)
	}
	if err := settled(ctx, s.mon, s.machine.ID(), inv.status); err != nil {
		return nil, err
	}
	if err := s.alone(inv.nodes); err != nil {
		return nil, err
	}
	for _, d := range inv.disks {
		if d.skip == "" {
			d.Base, d.Next = s.usable(inv, d), bitmapOf(s.Mark, len(s.Disks))
			d.Old = olderIDs(&s.opts, d.Key)
			s.Disks = append(s.Disks, d)
		}
	}
	if len(s.Disks) == 0 {
		return nil, noDisk(s.machine, inv)
	}
	_, batches := s.mon.(batcher)
	s.byJob = !speaks(s.mon).filters
	s.gates = !s.byJob && !batches && len(s.Disks) > 1
	s.vm = inv.vm(s.machine)
	if s.vm.Config, err = takeConfig(ctx, s.mon); err != nil {
		return nil, err
	}
	if err := s.recordMachine(ctx, inv); err != nil {
		return nil, err
	}
	return inv, s.chooseFolder(ctx)
}

// alone refuses a machine with another session's nodes. Asked again after ours are there: of two sessions that both
// found nothing at least one finds the other then.
func (s *snapshot) alone(nodes map[string]node) error {
	for name := range nodes {
		if strings.HasPrefix(name, prefix) && !s.mine(name) {
			return &hikae.BusyError{What: "VM " + s.machine.ID(), Owner: "a session that is running, or was killed and not yet swept (block node " + name + ")"}
		}
	}
	return nil
}

func noDisk(m Machine, inv *inventory) error {
	var why []string
	for _, d := range inv.disks {
		why = append(why, fmt.Sprintf("; disk %s: %s", d.Key, d.skip))
	}
	return fmt.Errorf("VM %s has no disk that can be backed up%s", m.ID(), strings.Join(why, ""))
}

// usable is the base's bitmap on a disk, if what it holds can be relied on.
func (s *snapshot) usable(inv *inventory, d disk) string {
	since := ourID(s.opts.Since[d.Key])
	b, ok := inv.nodes[d.Node].bitmap(since)
	switch {
	case since == "" && s.opts.Since[d.Key] != "":
		s.reasons[d.Key] = "the base point's change id is not one of this hypervisor's"
	case since == "":
		s.reasons[d.Key] = "the base point has no change id for this disk"
	case !ok:
		s.reasons[d.Key] = "bitmap " + since + " is not there any more"
	case b.Inconsistent:
		s.reasons[d.Key] = "bitmap " + since + " is inconsistent: QEMU did not end in an orderly way"
	case !b.Recording:
		s.reasons[d.Key] = "bitmap " + since + " was not recording"
	default:
		return since
	}
	return ""
}

// intend writes an effect down before it happens.
func (s *snapshot) intend(ctx context.Context, kind string, more map[string]string) error {
	if s.opts.Journal == nil {
		s.done[kind] = func(context.Context) error { return nil }
		return nil
	}
	e, err := s.effect(kind, more)
	if err != nil {
		return err
	}
	if kind == kindBitmap { // which of the two bitmaps goes depends on whether the point was committed
		e.Repository = s.opts.Repository
	}
	done, err := s.opts.Journal.Intend(ctx, e)
	if err == nil {
		s.done[kind] = done
	}
	return err
}

// settle is called when an effect of a kind is no more.
func (s *snapshot) settle(ctx context.Context, kind string) error {
	done, ok := s.done[kind]
	if !ok {
		return nil
	}
	if err := done(ctx); err != nil {
		return err
	}
	delete(s.done, kind)
	return nil
}

func (s *snapshot) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// VM, Consistency and Warnings say what was pinned, and how.
func (s *snapshot) VM() hikae.VM                   { return s.vm }
func (s *snapshot) Consistency() hikae.Consistency { return s.consistency }
func (s *snapshot) Warnings() []string             { return slices.Clone(s.warnings) }

// Prepare hands out the bitmaps that began with the snapshot, where they still record. It fails where what was read may
// not be the snapshot's: the VM has left ([ErrMigrated]), or nothing keeps old data any more ([ErrBroken]).
func (s *snapshot) Prepare(ctx context.Context) (map[string]hikae.ChangeID, error) {
	if err := s.connect(ctx); err != nil {
		return nil, s.parted(err)
	}
	defer s.disconnect()
	if err := s.stands(ctx); err != nil {
		return nil, err
	}
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return nil, err
	}
	out := map[string]hikae.ChangeID{}
	for _, d := range s.Disks {
		if b, ok := nodes[d.Node].bitmap(d.Next); ok && b.Recording && !b.Inconsistent {
			out[d.Key] = hikae.ChangeID(d.Next)
		}
	}
	return out, nil
}

// Commit removes the bitmaps of the base. The new ones are the point's from now on.
func (s *snapshot) Commit(ctx context.Context) error {
	s.committed = true
	if err := s.settleBitmaps(ctx); err != nil {
		return fmt.Errorf("remove the bitmaps of the base: %w", err)
	}
	return nil
}

func (s *snapshot) settleBitmaps(ctx context.Context) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.disconnect()
	if err := s.removeBitmaps(ctx, s.mon, s.oldBitmaps); err != nil {
		return err
	}
	return s.settle(ctx, kindBitmap)
}

// oldBitmaps are the base's on a disk, also where they could not be used: nobody else will remove them.
func (s *snapshot) oldBitmaps(d disk) []string { return d.Old }

// Early implements [hikae.EarlyTracking]: the bitmaps record from the snapshot on, so nothing is different about them at the
// end.
func (s *snapshot) Early(ctx context.Context) (map[string]hikae.ChangeID, error) {
	return s.Prepare(ctx)
}

// KeepEarly implements [hikae.EarlyTracking].
func (s *snapshot) KeepEarly() { s.early = true }

// Release removes what the snapshot made; the base was never touched, so there is nothing to make whole. It may be
// called again after an error.
func (s *snapshot) Release(ctx context.Context) error {
	s.unwatch()
	defer s.disconnect()
	if len(s.done) == 0 {
		s.unguard()
		return nil
	}
	err := s.connect(ctx)
	if err != nil && !gone(err) {
		return err
	}
	if err != nil { // QEMU has ended, and all that was in it
		err = s.releaseFiles(ctx)
	} else {
		err = s.release(ctx)
	}
	if err == nil || len(s.done) == 1 && s.done[kindBitmap] != nil {
		s.unguard()
	}
	return err
}

func (s *snapshot) release(ctx context.Context) error {
	var errs []error
	step := func(kind string, undo func() error) bool {
		if _, ok := s.done[kind]; !ok {
			return true
		}
		err := undo()
		if err == nil {
			err = s.settle(ctx, kind)
		}
		errs = append(errs, err)
		return err == nil
	}
	step(kindPause, func() error { return s.unpause(ctx, s.mon) })
	step(kindFreeze, func() error {
		half, stop := halfOf(ctx) // a guest that does not answer leaves time for what holds its disks
		defer stop()
		return s.machine.agent().thaw(half)
	})
	if step(kindExport, func() error { return s.removeExports(ctx, s.mon) }) && step(kindFleece, func() error { return s.removeFleece(ctx, s.mon) }) {
		step(kindBitmap, func() error { return s.removeBitmaps(ctx, s.mon, s.newBitmaps) })
	}
	return errors.Join(errs...)
}

// newBitmaps are what goes without a commit. After a commit whose own work failed, they stay, and the effect too: the
// sweeper finds the point that names them.
func (s *snapshot) newBitmaps(d disk) []string {
	switch {
	case s.committed:
		return s.oldBitmaps(d)
	case s.early:
		return replaced(&s.opts, d.Key)
	}
	return []string{d.Next}
}

// releaseFiles is all there is to do when QEMU has ended. A persistent bitmap that nobody needs may be in an image
// still; its effect stays, for the next time that the machine runs.
func (s *snapshot) releaseFiles(ctx context.Context) error {
	if err := s.removeFiles(); err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(s.done)) {
		if kind == kindBitmap {
			continue
		}
		if err := s.settle(ctx, kind); err != nil {
			return err
		}
	}
	delete(s.done, kindBitmap)
	return nil
}
