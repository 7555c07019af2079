package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// A restore in place writes over the disks of a VM that is off.
//
//	the VM is looked at: it is off, it has no snapshots, its disks are those of the point
//	the effect is written down
//	nobody can start it, move it or take a snapshot of it, where the server has the means for that
//	the VM gets settings: it is being written over; what was tracked before this moment is void. Tracking is turned off
//	each disk in its turn is read by one transport, and what differs is written by one that writes
//	the settings go, but for that by which the ledger knows; tracking is turned on again, unless there are snapshots
//	what was disabled is enabled
//
// Trackers see some of such writes and not others, so no change id from before is believed afterwards: see moment. What keeps
// others off, and what does not, is told at guard.

// placeDraft is a VM that is being written over. It is a job.Placer, a job.Rereader and a job.Noter.
type placeDraft struct {
	restorer *Restorer
	machine  *machine
	from     hikae.VM // what is brought back; without a configuration disks are found by their keys alone
	journal  hikae.Journal
	mark     string
	free     func() // lets other restores at the VM

	disks   []*placeDisk
	notes   []string
	placing placing
	broken  bool // a restore before this one did not come to its end
	settle  func(context.Context) error
	held    *hold
	marked  bool // the settings may be there
	closed  bool
}

// placeDisk is one disk of it.
type placeDisk struct {
	Disk
	key    string // in the point
	target *placeTarget
	whole  bool
}

// placed VMs of this process, by server and reference. Other processes are found by what they leave on the VM.
var placedVMs sync.Map

// InPlace implements [hikae.Restorer]: id is the VM's reference ("vm-42"). A VM that is not off is a *RunningError, and one
// that has snapshots a *SnapshotsError, unless the options say otherwise.
func (r *Restorer) InPlace(ctx context.Context, id string, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: id}
	place := r.client.Address() + " " + id
	if _, busy := placedVMs.LoadOrStore(place, true); busy {
		return nil, &hikae.BusyError{What: "VM " + id, Owner: "another restore of this program"}
	}
	d := &placeDraft{restorer: r, mark: newMark(), free: sync.OnceFunc(func() { placedVMs.Delete(place) })}
	if opts != nil {
		d.journal = opts.Journal
		if opts.VM != nil {
			d.from = *opts.VM
		}
	}
	var err error
	if d.machine, err = r.client.machine(ctx, ref); err == nil {
		err = d.check()
	}
	if err == nil {
		err = d.refuseForeign(ctx, d.machine)
	}
	if err != nil {
		d.free()
		return nil, err
	}
	return d, nil
}

// check refuses a VM that cannot be written over.
func (d *placeDraft) check() error {
	m, o := d.machine, d.restorer.opts
	switch state := m.Runtime.PowerState; {
	case m.Config.Template:
		return fmt.Errorf("VM %s is a template: %w", m.Name, fs.ErrInvalid)
	case settingOf(m.Config, keyUnfinished) != "":
		return unfinished(m.Name, m.Config)
	case state != types.VirtualMachinePowerStatePoweredOff && !o.PowerOff:
		return &RunningError{VM: m.Name, State: string(state)}
	}
	if m.Snapshot != nil && len(m.Snapshot.RootSnapshotList) > 0 && !o.UnderSnapshots {
		return &SnapshotsError{VM: m.Name, Names: snapshotNames(m.Snapshot.RootSnapshotList, nil, 0)}
	}
	if m.Runtime.ConsolidationNeeded {
		d.notes = append(d.notes, "the VM's disks need consolidation: what is restored is written to the newest of their files")
	}
	return nil
}

const (
	maxSnapshotNames = 32
	maxSnapshotDepth = 256 // of the list that a server sends
)

func snapshotNames(list []types.VirtualMachineSnapshotTree, names []string, depth int) []string {
	for _, s := range list {
		if len(names) >= maxSnapshotNames || depth > maxSnapshotDepth {
			break
		}
		names = snapshotNames(s.ChildSnapshotList, append(names, s.Name), depth+1)
	}
	return names
}

// Ready looks at all disks that are to be written, and marks the VM. On an error nothing was touched.
func (d *placeDraft) Ready(ctx context.Context, disks []hikae.Disk, _ map[string]hikae.ChangeID) error {
	record, err := readRecord(d.from.Config)
	if err != nil {
		return err
	}
	recorded := slotsByKey(record)
	d.disks = nil
	for _, want := range disks {
		disk, err := d.find(want, recorded)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(d.disks, func(p *placeDisk) bool { return p.Device == disk.Device }) {
			return fmt.Errorf("disk %s of VM %s would be written twice: %w", disk.Slot, d.machine.Name, fs.ErrInvalid)
		}
		d.disks = append(d.disks, disk)
	}
	return d.begin(ctx)
}

// find finds the VM's disk that a disk of the point goes to: the one with its key, else the one of its size where it hung.
func (d *placeDraft) find(want hikae.Disk, recorded map[string]Disk) (*placeDisk, error) {
	all := d.machine.disks
	i := slices.IndexFunc(all, func(k Disk) bool { return k.Key == want.Key })
	if i >= 0 {
		if all[i].Size != want.Size {
			return nil, fmt.Errorf("disk %s is %d bytes, in the point it is %d: resize it first, or restore to a new VM: %w", want.Key, all[i].Size, want.Size, fs.ErrInvalid)
		}
		return &placeDisk{Disk: all[i], key: want.Key}, nil
	}
	if was, ok := recorded[want.Key]; ok {
		i = slices.IndexFunc(all, func(k Disk) bool { return k.Slot == was.Slot && k.Size == want.Size })
	}
	if i < 0 {
		return nil, fmt.Errorf("disk %s: VM %s has none of that key, and none of %d bytes where it hung; it has %s: %w",
			want.Key, d.machine.Name, want.Size, strings.Join(disksNamed(all), ", "), fs.ErrNotExist)
	}
	d.notes = append(d.notes, fmt.Sprintf("disk %s was written to %s of the VM, which has another UUID (%s): it hangs where that one hung and is as large", want.Key, all[i].Slot, all[i].Key))
	return &placeDisk{Disk: all[i], key: want.Key}, nil
}

// begin writes down what is going to happen, in the journal and on the VM.
func (d *placeDraft) begin(ctx context.Context) (err error) {
	c, m := d.restorer.client, d.machine
	now, err := methods.GetCurrentTime(ctx, c.vim)
	if err != nil {
		return fmt.Errorf("the server's time: %w", err)
	}
	if d.settle == nil {
		d.settle, err = intend(ctx, d.journal, c.effect(kindRestore, m.Self.Value, map[string]string{
			"what": restoresPlace, "mark": d.mark, "uuid": m.Config.InstanceUuid, "name": m.Name,
		}))
		if err != nil {
			d.settle = nil
			return err
		}
	}
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		if err := d.powerOff(ctx); err != nil {
			return err
		}
	}
	if err := d.guard(ctx); err != nil {
		return err
	}
	if m, err = d.unaltered(ctx); err != nil {
		return err
	}
	if err := d.refuseForeign(ctx, m); err != nil {
		return err
	}
	d.placing = placing{mark: d.mark, since: now.UTC().Format(time.RFC3339), by: machineName(), tracked: isTrue(m.Config.ChangeTrackingEnabled)}
	if p, ok := placingOf(m.Config); ok {
		d.broken = true
		d.placing.tracked = d.placing.tracked || p.tracked
	}
	d.marked = true
	off := false
	spec := types.VirtualMachineConfigSpec{
		ChangeVersion: m.Config.ChangeVersion, // a server that compares it refuses the second of two restores
		Annotation:    unfinishedLine(d.mark) + withoutLine(m.Config.Annotation),
		ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: keyPlacing, Value: d.placing.String()},
			&types.OptionValue{Key: keyRestored, Value: now.UTC().Format(time.RFC3339Nano)},
		},
	}
	if isTrue(m.Config.ChangeTrackingEnabled) {
		spec.ChangeTrackingEnabled = &off
	}
	err = c.reconfigure(ctx, m.Self, spec)
	if isFault[*types.ConcurrentAccess](err) {
		err = errors.Join(&hikae.BusyError{What: "VM " + m.Name, Owner: "somebody who changes its configuration"}, err)
	}
	if err != nil {
		return fmt.Errorf("mark VM %s as being restored: %w", m.Name, err)
	}
	_, err = d.unaltered(ctx) // of two that marked it at once the last one goes on
	return err
}

func (d *placeDraft) powerOff(ctx context.Context) error {
	c := d.restorer.client
	res, err := methods.PowerOffVM_Task(ctx, c.vim, &types.PowerOffVM_Task{This: d.machine.Self})
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return fmt.Errorf("switch VM %s off: %w", d.machine.Name, err)
	}
	d.notes = append(d.notes, "the VM was switched off, as asked")
	return nil
}

func (d *placeDraft) disk(key string) (*placeDisk, error) {
	i := slices.IndexFunc(d.disks, func(p *placeDisk) bool { return p.key == key })
	if i < 0 {
		return nil, fmt.Errorf("disk %q: Ready did not name it: %w", key, fs.ErrNotExist)
	}
	return d.disks[i], nil
}

func (d *placeDraft) pinned(disk Disk) *Pinned {
	m := d.machine
	return &Pinned{Client: d.restorer.client, VM: m.Self, Host: deref(m.Runtime.Host), Name: m.Name, Disk: disk,
		Journal: d.journal, Scratch: d.restorer.opts.Scratch}
}

// OpenDisk implements [hikae.Draft]. What the target is given and differs from the disk is written; there is no way back.
func (d *placeDraft) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	if p.target != nil {
		return nil, fmt.Errorf("disk %s: it is open already: %w", key, fs.ErrExist)
	}
	if _, err := d.unaltered(ctx); err != nil {
		return nil, err
	}
	to, choice, err := d.restorer.by.openTarget(ctx, d.pinned(p.Disk))
	if err != nil {
		return nil, err
	}
	choice.Disk = key
	d.notes = append(d.notes, "written by "+choice.String())
	is, err := d.beside(ctx, to, p)
	if err != nil {
		d.notes = append(d.notes, fmt.Sprintf("disk %s was written whole: %v", key, err))
	}
	p.target = newPlaceTarget(ctx, to, is, func() { p.whole = true })
	p.target.ready = func(ctx context.Context) error {
		_, err := d.unaltered(ctx)
		return err
	}
	return p.target, nil
}

// beside is the disk that is written to, to look at what it holds: over the target's own connection where it has that, because
// a host may let nobody else open it. Opened a second time it has the target's place among what is read and written at once:
// who holds one and waits for another waits for others that do the same.
func (d *placeDraft) beside(ctx context.Context, to pipe.Target, p *placeDisk) (pipe.Image, error) {
	if !keepsBase(ctx, to) {
		return nil, errors.New("the transport replaces its file")
	}
	if is, ok := readableTarget(to); ok {
		return is, nil
	}
	again := d.pinned(p.Disk)
	again.placed = true
	is, _, err := d.restorer.by.open(ctx, again)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read beside: %w", err)
	}
	return is, nil
}

// Changed has no answer: a disk is compared as a whole, because what a tracker says of a VM that is off, and maybe was reverted
// since, is not worth a wrong byte.
func (d *placeDraft) Changed(context.Context, string, hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		yield(pipe.Extent{}, lost("a restore in place compares, and believes no tracker"))
	}
}

// Reread opens a disk that was committed.
func (d *placeDraft) Reread(ctx context.Context, key string) (pipe.Image, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	if !p.whole {
		return nil, fmt.Errorf("disk %s was not written to its end: %w", key, fs.ErrInvalid)
	}
	img, _, err := d.restorer.by.open(ctx, d.pinned(p.Disk))
	return img, err
}

// Notes are what a person should know about the VM that was written over.
func (d *placeDraft) Notes() []string { return slices.Clone(d.notes) }

// Commit takes the mark away. The VM can be started.
func (d *placeDraft) Commit(ctx context.Context) (string, error) {
	for _, p := range d.disks {
		if !p.whole {
			return "", fmt.Errorf("disk %s was not written to its end: %w", p.key, fs.ErrInvalid)
		}
		if p.target.blind.Load() {
			d.notes = append(d.notes, fmt.Sprintf("parts of disk %s could not be read before, and were written without a look", p.key))
		}
	}
	m, err := d.unaltered(ctx)
	if err != nil {
		return "", err
	}
	if err := d.unmark(ctx, m); err != nil {
		return "", err
	}
	if err := d.held.letGo(ctx); err != nil {
		d.notes = append(d.notes, fmt.Sprintf("the VM is whole, and cannot be started or moved until the next sweep: %v", err))
	}
	d.closed = true
	d.free()
	id := d.machine.Self.Value
	if d.restorer.opts.PowerOn {
		return id, d.restorer.powerOn(ctx, d.machine.Self, d.machine.Name)
	}
	return id, nil
}

// unmark makes the VM one like any other again. A mark that is not ours stays: somebody else writes over the VM.
func (d *placeDraft) unmark(ctx context.Context, m *machine) error {
	spec := types.VirtualMachineConfigSpec{
		Annotation:  annotationOf(withoutLine(m.Config.Annotation)),
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyPlacing, Value: ""}},
	}
	switch {
	case d.placing.tracked && len(m.tree.nodes) > 0: // whatever an older mark says: see ErrHasSnapshots
		d.notes = append(d.notes, "changed-block tracking was on, and is off now: it cannot be enabled while the VM has snapshots")
	case d.placing.tracked:
		on := true
		spec.ChangeTrackingEnabled = &on
	}
	if p, _ := placingOf(m.Config); p.mark == d.mark {
		if err := d.restorer.client.reconfigure(ctx, m.Self, spec); err != nil {
			return fmt.Errorf("VM %s stays marked as half restored: %w", d.machine.Name, err)
		}
	}
	d.marked = false
	if d.settle == nil {
		return nil
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	d.settle = nil
	return nil
}

// Close ends a restore. Without a Commit, a VM of which anything was written stays marked as half restored, and so does one
// that was before; that is an *IncompleteError.
func (d *placeDraft) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	defer d.free()
	ctx, cancel := context.WithTimeout(context.Background(), newCleanup)
	defer cancel()
	var errs []error
	touched := false
	for _, p := range d.disks {
		if p.target != nil {
			errs = append(errs, p.target.Close())
			touched = touched || p.target.touched.Load()
		}
	}
	switch {
	case !d.marked && d.settle == nil:
		return errors.Join(errs...)
	case d.marked && (touched || d.broken):
		errs = append(errs, &IncompleteError{VM: d.machine.Name, Mark: d.mark, Since: d.placing.since})
		deadPlacings.Store(d.mark, true)
	default:
		m, err := d.restorer.client.machine(ctx, d.machine.Self)
		if err == nil {
			err = d.unmark(ctx, m)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.held.letGo(ctx))...)
}

var _ hikae.Draft = (*placeDraft)(nil)
