package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// errNothingFrozen: the agent answered, and there was no file system that it could freeze.
var errNothingFrozen = errors.New("the guest agent froze no file system")

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

	mon       *qmp.Conn // while the monitor is held
	done      map[string]func(context.Context) error
	committed bool
}

// Snapshot implements [hikae.SnapshotProvider]. It is a [job.Warner].
func (p *Provider) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	m, err := p.machine(id)
	if err != nil {
		return nil, err
	}
	s := &snapshot{provider: p, machine: m, footprint: newFootprint(m.QMP), consistency: hikae.Crash,
		reasons: map[string]string{}, done: map[string]func(context.Context) error{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.FreezeDeadline <= 0 {
		s.opts.FreezeDeadline = freezeDeadline
	}
	if err := s.take(ctx); err != nil {
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
		s.mon, err = s.provider.dial(ctx, s.machine.QMP)
	}
	return err
}

func (s *snapshot) disconnect() {
	if s.mon != nil {
		s.mon.Close()
		s.mon = nil
	}
}

// look finds out what there is, and refuses a machine that another session is at work on.
func (s *snapshot) look(ctx context.Context) (*inventory, error) {
	inv, err := takeInventory(ctx, s.mon)
	if err != nil {
		return nil, err
	}
	if !inv.version.AtLeast(7, 1) {
		return nil, fmt.Errorf("%w: this is %v", ErrOldQEMU, inv.version)
	}
	for name := range inv.nodes {
		if strings.HasPrefix(name, prefix) {
			return nil, &hikae.BusyError{What: "VM " + s.machine.QMP, Owner: "a session that is running, or was killed and not yet swept (block node " + name + ")"}
		}
	}
	for _, d := range inv.disks {
		if d.skip == "" {
			d.Base = s.usable(inv, d)
			s.Disks = append(s.Disks, d)
		}
	}
	if len(s.Disks) == 0 {
		return nil, noDisk(s.machine, inv)
	}
	scratch, err := filepath.Abs(s.provider.opts.Scratch)
	if err != nil {
		return nil, err
	}
	s.Dir = filepath.Join(scratch, s.Mark)
	s.vm = inv.vm(s.machine)
	s.vm.Config, err = takeConfig(ctx, s.mon)
	return inv, err
}

func noDisk(m Machine, inv *inventory) error {
	var why []string
	for _, d := range inv.disks {
		why = append(why, fmt.Sprintf("; disk %s: %s", d.Key, d.skip))
	}
	return fmt.Errorf("VM %s has no disk that can be backed up%s", m.QMP, strings.Join(why, ""))
}

// usable is the base's bitmap on a disk, if what it holds can be relied on.
func (s *snapshot) usable(inv *inventory, d disk) string {
	since := string(s.opts.Since[d.Key])
	b, ok := inv.nodes[d.Node].bitmap(since)
	switch {
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

// addBitmaps begins to track, on all disks at once, before the moment: what is written in between is read once more
// the next time, which is harmless.
func (s *snapshot) addBitmaps(ctx context.Context) error {
	if err := s.intend(ctx, kindBitmap, nil); err != nil {
		return err
	}
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return err
	}
	var actions []any
	for _, d := range s.Disks {
		actions = append(actions, action("block-dirty-bitmap-add", map[string]any{
			"node": d.Node, "name": s.changeID(), "persistent": nodes[d.Node].Driver == "qcow2",
		}))
	}
	return transaction(ctx, s.mon, actions)
}

func action(kind string, data map[string]any) any { return map[string]any{"type": kind, "data": data} }

func transaction(ctx context.Context, mon *qmp.Conn, actions []any) error {
	if len(actions) == 0 {
		return nil
	}
	return mon.Execute(ctx, "transaction", map[string]any{"actions": actions}, nil)
}

// addFleece makes the fleecing images and the filters, which nobody uses yet.
func (s *snapshot) addFleece(ctx context.Context) error {
	if len(s.socket()) > maxSocketPath {
		return fmt.Errorf("%s: %w: a socket's path has at most %d bytes, choose another scratch folder", s.socket(), fs.ErrInvalid, maxSocketPath)
	}
	if err := s.intend(ctx, kindFleece, nil); err != nil {
		return err
	}
	owner, err := os.Stat(s.machine.QMP)
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		return err
	}
	if err := giveTo(s.Dir, owner); err != nil {
		return err
	}
	for i, d := range s.Disks {
		if err := s.addFilter(ctx, i, d, owner); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

// cbwTimeout is how many seconds a write of the guest may wait for the fleecing image before the snapshot is given up.
const cbwTimeout = 30

func (s *snapshot) addFilter(ctx context.Context, i int, d disk, owner fs.FileInfo) error {
	limit, err := s.fleeceBytes(d)
	if err != nil {
		return err
	}
	if err := makeFleece(ctx, s.file(i), d.Size, limit); err != nil {
		return err
	}
	if err := giveTo(s.file(i), owner); err != nil {
		return err
	}
	err = s.mon.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": s.fleece(i), "discard": "unmap",
		"file": map[string]any{ // the raw driver is what refuses to grow beyond the limit
			"driver": "raw", "size": limit,
			"file": map[string]any{"driver": "file", "filename": s.file(i), "discard": "unmap"},
		},
	}, nil)
	if err != nil {
		return err
	}
	return s.mon.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "copy-before-write", "node-name": s.filter(i), "file": d.Node, "target": s.fleece(i),
		"on-cbw-error": "break-snapshot", "cbw-timeout": cbwTimeout,
	}, nil)
}

// pin is the moment: the guest's file systems are frozen, and the filters come between devices and disks. What is going
// to happen is written down before, so that nothing waits for the journal while the guest is frozen; and the pause last,
// because what was written down last is undone first, and a guest that stands still cannot thaw.
func (s *snapshot) pin(ctx context.Context, running bool) error {
	quiescer := s.opts.Quiescer // who brought it keeps a journal of its own: we could not undo it
	if quiescer == nil && s.machine.Agent != "" && running {
		agent := agentQuiescer{qga.New(s.machine.Agent, nil)}
		defer agent.Close()
		if err := s.intend(ctx, kindFreeze, map[string]string{"agent": s.machine.Agent}); err != nil {
			return err
		}
		quiescer = agent
	}
	if running && len(s.Disks) > 1 {
		if err := s.intend(ctx, kindPause, nil); err != nil {
			return err
		}
	}
	if !running {
		s.warn("the VM is not running (%s), its file systems were not frozen", s.vm.Facts["status"])
	}
	if quiescer == nil || !running {
		return s.insert(ctx)
	}
	defer s.guard(ctx)()
	return s.quiesced(ctx, quiescer)
}

// guard arms the guard, where there is one and the guest is frozen by its agent.
func (s *snapshot) guard(ctx context.Context) (release func()) {
	arm := s.provider.opts.Guard
	if arm == nil || s.opts.Quiescer != nil {
		return func() {}
	}
	done, err := arm(ctx, s.machine.Agent)
	if err != nil {
		s.warn("nobody would thaw the guest if this process died: %v", err)
		return func() {}
	}
	return func() {
		if err := done(); err != nil {
			s.warn("the guard of the frozen guest: %v", err)
		}
	}
}

// quiesced inserts the filters while the guest is frozen. It is thawed on every path; where nobody confirms that, the
// effect stays in the journal and the snapshot fails. A guest that cannot be frozen is pinned as it is.
func (s *snapshot) quiesced(ctx context.Context, q hikae.Quiescer) error {
	begun := time.Now()
	cold, cancel := context.WithTimeout(ctx, s.opts.FreezeDeadline)
	defer cancel()
	froze := q.Freeze(cold)
	if froze == nil {
		err := s.insert(cold)
		if thawed := s.thaw(ctx, q); thawed != nil {
			return errors.Join(err, thawed)
		}
		s.consistency = hikae.Filesystem
		s.vm.Facts["frozen"] = time.Since(begun).Round(time.Millisecond).String() // with the agent's way there and back
		return err
	}
	if !untouched(froze) {
		if err := s.thaw(ctx, q); err != nil {
			return err
		}
	}
	s.warn("the guest could not be frozen: %v", froze)
	return errors.Join(s.settle(ctx, kindFreeze), s.insert(ctx))
}

// thaw has time of its own: a cancelled session must not leave a frozen guest.
func (s *snapshot) thaw(ctx context.Context, q hikae.Quiescer) error {
	warm, stop := context.WithTimeout(context.WithoutCancel(ctx), s.provider.opts.ThawTimeout)
	defer stop()
	if err := q.Thaw(warm); err != nil {
		return &hikae.QuiesceError{Stage: "thaw", Err: err}
	}
	return s.settle(warm, kindFreeze)
}

// untouched: the agent was not there before anything was asked of it, or somebody else froze the guest. Then there is
// nothing that would be ours to thaw.
func untouched(froze error) bool {
	return errors.Is(froze, qga.ErrSilent) || errors.Is(froze, qga.ErrFrozen) || gone(froze)
}

// insert puts the filters in, all in one message. Where there are several, QEMU stands still meanwhile, and what lets
// it go on is in the same message.
func (s *snapshot) insert(ctx context.Context) error {
	var cmds []*qmp.Command
	_, pause := s.done[kindPause]
	if pause {
		cmds = append(cmds, &qmp.Command{Name: "stop"})
	}
	for i, d := range s.Disks {
		cmds = append(cmds, &qmp.Command{Name: "qom-set", Args: map[string]any{"path": d.QDev, "property": "drive", "value": s.filter(i)}})
	}
	if pause {
		cmds = append(cmds, &qmp.Command{Name: "cont"})
	}
	if err := s.mon.Batch(ctx, cmds); err != nil {
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

// copyBase makes copies of the base's bitmaps, for the reader: an export takes none that records. All are taken at one
// moment after the snapshot's, so they hold everything up to it.
func (s *snapshot) copyBase(ctx context.Context) error {
	var actions []any
	for _, d := range s.Disks {
		if d.Base == "" {
			continue
		}
		actions = append(actions,
			action("block-dirty-bitmap-add", map[string]any{"node": d.Node, "name": s.copyName(), "disabled": true}),
			action("block-dirty-bitmap-merge", map[string]any{"node": d.Node, "target": s.copyName(), "bitmaps": []string{d.Base}}))
	}
	return transaction(ctx, s.mon, actions)
}

// addExports lets the snapshot be read.
func (s *snapshot) addExports(ctx context.Context) error {
	for i := range s.Disks {
		err := s.mon.Execute(ctx, "blockdev-add", map[string]any{"driver": "snapshot-access", "node-name": s.access(i), "file": s.filter(i)}, nil)
		if err != nil {
			return err
		}
	}
	if err := s.intend(ctx, kindExport, nil); err != nil {
		return err
	}
	err := s.mon.Execute(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": s.socket()}}}, nil)
	if qmp.Refused(err) && strings.Contains(err.Error(), "already running") {
		return &hikae.BusyError{What: "the NBD server of VM " + s.machine.QMP, Owner: "somebody else's export"}
	}
	if err != nil {
		return err
	}
	for i, d := range s.Disks {
		if err := s.mon.Execute(ctx, "block-export-add", s.exportArgs(i, d), nil); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

func (s *snapshot) exportArgs(i int, d disk) map[string]any {
	args := map[string]any{"type": "nbd", "id": s.exportID(i), "node-name": s.access(i), "name": s.exportID(i)}
	if d.Base != "" {
		args["bitmaps"] = []any{map[string]any{"node": d.Node, "name": s.copyName()}}
	}
	return args
}

func (s *snapshot) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// VM, Consistency and Warnings say what was pinned, and how.
func (s *snapshot) VM() hikae.VM                   { return s.vm }
func (s *snapshot) Consistency() hikae.Consistency { return s.consistency }
func (s *snapshot) Warnings() []string             { return slices.Clone(s.warnings) }

// Prepare hands out the bitmaps that began with the snapshot, where they still record.
func (s *snapshot) Prepare(ctx context.Context) (map[string]hikae.ChangeID, error) {
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	defer s.disconnect()
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return nil, err
	}
	out := map[string]hikae.ChangeID{}
	for _, d := range s.Disks {
		if b, ok := nodes[d.Node].bitmap(s.changeID()); ok && b.Recording && !b.Inconsistent {
			out[d.Key] = hikae.ChangeID(s.changeID())
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
func (s *snapshot) oldBitmaps(d disk) []string { return []string{string(s.opts.Since[d.Key])} }

// Release removes what the snapshot made; the base was never touched, so there is nothing to make whole. It may be
// called again after an error.
func (s *snapshot) Release(ctx context.Context) error {
	defer s.disconnect()
	if len(s.done) == 0 {
		return nil
	}
	err := s.connect(ctx)
	if err != nil && !gone(err) {
		return err
	}
	if err != nil { // QEMU has ended, and all that was in it
		return s.releaseFiles(ctx)
	}
	return s.release(ctx)
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
	step(kindFreeze, func() error { return thaw(ctx, s.machine.Agent) })
	if step(kindExport, func() error { return s.removeExports(ctx, s.mon) }) && step(kindFleece, func() error { return s.removeFleece(ctx, s.mon) }) {
		step(kindBitmap, func() error { return s.removeBitmaps(ctx, s.mon, s.newBitmaps) })
	}
	return errors.Join(errs...)
}

// newBitmaps are what goes without a commit. After a commit whose own work failed, they stay, and the effect too: the
// sweeper finds the point that names them.
func (s *snapshot) newBitmaps(d disk) []string {
	if s.committed {
		return s.oldBitmaps(d)
	}
	return []string{s.changeID()}
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
