package vmware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

const (
	freezeDeadline = 10 * time.Second
	atOnce         = time.Second      // a wait after which the VM is looked at anew
	undoDeadline   = 10 * time.Minute // for what a snapshot that failed has made already
)

// snapshot is one pinned moment of a VM. Its methods are called one at a time, but for OpenDisk, Changed and the images.
//
//	look       who else is at work here? what is it made of? what would stop the backup, or weaken it?
//	track      tracking enabled or reset, where it may be
//	hold       it cannot be moved to other storage
//	pin        the snapshot, with its guest quiet
//	adopt      what was pinned: configuration, disks, change ids, all from the snapshot
//	…          disks are read, the point is made
//	Release    images closed, so that no disk is attached; snapshot removed; disks consolidated; it can be moved again
type snapshot struct {
	provider *Provider
	client   *Client
	ref      types.ManagedObjectReference
	opts     hikae.SnapshotOptions
	free     func()

	was    *machine // before the snapshot
	pinned *marked
	cycles []*marked // snapshots that were made to begin tracking, and could not be removed
	held   *hold

	vm          hikae.VM
	consistency hikae.Consistency
	warnings    []string
	node        snapshotNode
	config      *types.VirtualMachineConfigInfo
	disks       map[string]pinnedDisk // by key, those that are covered
	untracked   string                // why the VM's changes are not tracked, where it is known
	below       *snapshotTree         // without ours
	recent      []types.ManagedObjectReference
	toolsAsked  bool // VMware Tools were asked to quiesce the guest, and the server says that the snapshot is there

	reading reading

	mu      sync.Mutex
	reverts map[time.Time]error // by moment, what the server remembers of reverts since then
}

// pinnedDisk is a disk as the snapshot has it.
type pinnedDisk struct {
	Disk
	now   moment
	blind string // why its changes are not tracked; empty: they are
}

// Snapshot implements [hikae.SnapshotProvider]. It is a [job.Warner].
func (p *Provider) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	ref, err := p.find(id)
	if err != nil {
		return nil, err
	}
	s := &snapshot{provider: p, client: p.client, ref: ref, consistency: hikae.Crash, reading: newReading(), reverts: map[time.Time]error{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.FreezeDeadline <= 0 {
		s.opts.FreezeDeadline = freezeDeadline
	}
	if s.free, err = p.occupy(ref); err != nil {
		return nil, err
	}
	if err := s.take(ctx); err != nil {
		host, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoDeadline)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("VM %s: %w", id, err), s.Release(host))
	}
	return s, nil
}

// take is the story of a snapshot up to where it can be read.
func (s *snapshot) take(ctx context.Context) error {
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"look", s.look}, {"begin to track", s.track}, {"hold", s.hold}, {"snapshot", s.pinMarked}, {"read the snapshot", s.adopt},
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// look finds out what there is, and refuses a VM that somebody else is at work on.
func (s *snapshot) look(ctx context.Context) (err error) {
	if s.was, err = s.client.machine(ctx, s.ref); err != nil {
		return err
	}
	if err := s.clearStale(ctx); err != nil {
		return err
	}
	if err := s.alone(ctx); err != nil {
		return err
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.vm = s.was.describe()
	s.warnStray()
	return s.preflight(ctx)
}

// wait waits until the datastores of the VM can bear one more snapshot. What the VM is may have changed meanwhile.
func (s *snapshot) wait(ctx context.Context) error {
	var on []types.ManagedObjectReference
	why := ""
	for _, d := range s.was.disks {
		if d.Skip == "" {
			on = append(on, d.Datastore)
		} else {
			why += fmt.Sprintf("; disk %s: %s", d.Key, d.Skip)
		}
	}
	switch {
	case s.was.Config.Template:
		return fmt.Errorf("it is a template, which no snapshot can be taken of: %w", errors.ErrUnsupported)
	case len(on) == 0:
		return fmt.Errorf("it has no disk that can be backed up%s", why)
	}
	begun := time.Now()
	leave, err := s.client.acquireSnapshot(ctx, on...)
	if err != nil {
		return err
	}
	occupied := s.free
	s.free = func() { leave(); occupied() }
	if time.Since(begun) < atOnce {
		return nil
	}
	if s.was, err = s.client.machine(ctx, s.ref); err != nil {
		return err
	}
	return s.alone(ctx)
}

// alone refuses a VM with a snapshot of another session, with work under way that no snapshot can be taken beside, or that a
// restore has not made whole.
func (s *snapshot) alone(ctx context.Context) error {
	what := "VM " + s.ref.Value
	if err := unfinished(s.was.Name, s.was.Config); err != nil {
		return err
	}
	for _, n := range s.was.tree.marked("") {
		return &hikae.BusyError{What: what, Owner: n.owner()}
	}
	if slices.Contains(s.was.DisabledMethod, "CreateSnapshot_Task") && !s.was.Config.Template { // a template has reasons of its own
		return &hikae.BusyError{What: what, Owner: "its server, which lets no snapshot be taken now"}
	}
	task, err := s.client.underWay(ctx, s.was.RecentTask, "snapshot")
	if err != nil || task == nil {
		return err
	}
	return &hikae.BusyError{What: what, Owner: fmt.Sprintf("task %s (%s)", task.Key, task.DescriptionId)}
}

// pinMarked takes the snapshot.
func (s *snapshot) pinMarked(ctx context.Context) (err error) {
	if s.pinned, err = s.client.newMarked(ctx, s.opts.Journal, s.was); err != nil {
		return err
	}
	livePins.Store(s.pinned.mark, true)
	err = s.pin(ctx)
	if busy, ok := faultAs[*types.TaskInProgress](err); ok {
		return errors.Join(&hikae.BusyError{What: "VM " + s.ref.Value, Owner: "task " + busy.Task.Value}, err)
	}
	return err
}

// adopt learns what was pinned, and from the snapshot alone: the running configuration is another one already.
func (s *snapshot) adopt(ctx context.Context) error {
	after, err := s.client.machine(ctx, s.ref)
	if err != nil {
		return err
	}
	var ok bool
	if s.node, ok = after.tree.nodes[s.pinned.ref.Value]; !ok {
		return fmt.Errorf("snapshot %s is not there any more", s.pinned.ref.Value)
	}
	// Two sessions may both have found nobody. Each sees the other now, and the one that was there first stays.
	for _, n := range after.tree.marked("") {
		if n.ref != s.node.ref && n.number <= s.node.number {
			return &hikae.BusyError{What: "VM " + s.ref.Value, Owner: fmt.Sprintf("another session (snapshot %q, %s)", n.name, n.ref.Value)}
		}
	}
	if s.consistency == hikae.Offline && after.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		s.warn("the VM was started while its snapshot was taken, and was not quiesced")
		s.consistency = hikae.Crash
	}
	if err := s.trustQuiesced(); err != nil {
		return err
	}
	var snap mo.VirtualMachineSnapshot
	if err := s.client.properties(ctx, s.node.ref, []string{"config"}, &snap); err != nil {
		return fmt.Errorf("configuration of snapshot %s: %w", s.node.ref.Value, err)
	}
	if err := unfinished(after.Name, &snap.Config); err != nil { // the restore began when we had looked
		return err
	}
	s.was.host, s.was.release = after.host, after.release
	s.was.Runtime.PowerState, s.was.Runtime.Host = after.Runtime.PowerState, after.Runtime.Host
	s.config = &snap.Config
	return s.adoptDisks(ctx, &snap.Config, after)
}

func (s *snapshot) adoptDisks(ctx context.Context, config *types.VirtualMachineConfigInfo, after *machine) error {
	s.disks, s.vm.Disks = map[string]pinnedDisk{}, nil
	tree := after.tree.without(s.node.ref.Value)
	for _, d := range coveredDisks(config) {
		if _, twice := s.disks[d.Key]; twice {
			return fmt.Errorf("disk %s: two disks have this key", d.Key)
		}
		s.vm.Disks = append(s.vm.Disks, d.Disk)
		if d.Skip == "" {
			s.disks[d.Key] = s.judge(d, tree)
		}
	}
	s.below, s.recent = tree, after.RecentTask
	s.vm.Facts["snapshot"] = s.node.ref.Value
	if s.node.manifest {
		s.vm.Facts["vss"] = "the guest's writers left a manifest"
	}
	var err error
	s.vm.Config, err = s.client.takeConfig(ctx, s.was, config, s.vm.Facts)
	return err
}

func (s *snapshot) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// VM, Consistency and Warnings say what was pinned, and how.
func (s *snapshot) VM() hikae.VM                   { return s.vm }
func (s *snapshot) Consistency() hikae.Consistency { return s.consistency }
func (s *snapshot) Warnings() []string             { return slices.Clone(s.warnings) }

// Prepare implements [hikae.Snapshot]: the change ids of the snapshot's configuration, those of disks that are tracked. It
// fails where the snapshot is not there any more: what was read since then is not of one moment.
func (s *snapshot) Prepare(ctx context.Context) (map[string]hikae.ChangeID, error) {
	ref, found, err := s.pinned.look(ctx)
	if err != nil {
		return nil, err
	}
	if !found || ref != s.node.ref {
		return nil, fmt.Errorf("VM %s: snapshot %s was removed while it was read", s.ref.Value, s.node.ref.Value)
	}
	if err := s.stillPinned(ctx); err != nil {
		return nil, err
	}
	out := map[string]hikae.ChangeID{}
	for key, d := range s.disks {
		if d.blind == "" {
			out[key] = d.now.id()
		}
	}
	return out, nil
}

// Early implements [hikae.EarlyTracking]: the change ids are those of the snapshot's configuration from its creation on.
func (s *snapshot) Early(ctx context.Context) (map[string]hikae.ChangeID, error) {
	return s.Prepare(ctx)
}

// KeepEarly implements [hikae.EarlyTracking]. A change id is a number that the server counts on from: there is nothing to keep.
func (s *snapshot) KeepEarly() {}

// stillPinned sees that the snapshot's disks are the files that were read. Where somebody removes another snapshot of the VM
// meanwhile, its files are merged, and a name may become another file's: what was read by name is then of nobody knows when.
func (s *snapshot) stillPinned(ctx context.Context) error {
	var now mo.VirtualMachineSnapshot
	if err := s.client.properties(ctx, s.node.ref, []string{"config"}, &now); err != nil {
		return fmt.Errorf("VM %s: snapshot %s: %w", s.ref.Value, s.node.ref.Value, err)
	}
	files := map[int32]Disk{}
	for _, d := range DisksOf(&now.Config) {
		files[d.Device] = d
	}
	for key, d := range s.disks {
		is := files[d.Device]
		same := is.File == d.File
		if s.movable() { // to another datastore or folder, with the name that it has
			same = fileOf(is.File) == fileOf(d.File) && is.Key == d.Key
		}
		if !same {
			return fmt.Errorf("VM %s: disk %s is %q in the snapshot now, and was %q when it was opened: another snapshot of the VM was removed while it was read; the backup has to be made again",
				s.ref.Value, key, is.File, d.File)
		}
	}
	return nil
}

// Commit implements [hikae.Snapshot]. The base is a number that the server counts on from, so there is nothing to drop.
func (s *snapshot) Commit(context.Context) error { return nil }
