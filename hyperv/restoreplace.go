package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// A restore in place writes over the disks of a VM that is off.
//
//	the VM is looked at: it is off, it has no checkpoints, nothing is merged, its disks are those of the point
//	the effect is written down, with what each file says of its content
//	its notes get a mark, and the word by which the ledger knows that change ids from before this moment are void
//	the files of all disks are opened for writing: from now on nobody can start the VM, or take a checkpoint of it
//	what the host keeps of their changes goes: see untrack
//	each disk in its turn is read, and what differs is written
//	the files are closed in good order, and the mark goes; the ledger's word stays
//
// Change tracking sees no such writes, so no change id from before is believed afterwards: see moment. A word of the ledger is never taken
// back, whatever became of the restore: one too many costs a full read, one too few is a wrong byte in the next point.

// placeDraft is a VM that is being written over. It is a job.Placer, a job.Rereader and a job.Noter.
type placeDraft struct {
	restorer *Restorer
	host     *Host
	store    Store
	machine  *Machine
	from     hikae.VM // what is brought back; without a configuration disks are found by their keys alone
	journal  hikae.Journal
	mark     unfinishedNote
	set      vmSettings       // as they were before
	points   []string         // InstanceIDs of its checkpoints
	free     func()           // lets other restores at the VM
	void     []hikae.ChangeID // of the repository's points

	disks  []*placeDisk
	notes  []string
	broken bool // a restore before this one did not come to its end
	settle func(context.Context) error
	marked bool // the mark may be there
	closed bool
}

// placeDisk is one disk of it.
type placeDisk struct {
	Disk
	key    string    // in the point
	file   vhdx.File // open, until the disk is
	target *placeTarget
	whole  bool
}

// placedVMs are those of this process that are written over, by site and GUID. Other processes are found by the VM's notes.
var placedVMs sync.Map

// deadPlacings are the marks that restores of this process have left, which ended without a Commit.
var deadPlacings sync.Map

// InPlace implements [hikae.Restorer]: id is the VM's GUID. A VM that is not off is a *RunningError, and one that has checkpoints
// a *CheckpointsError, unless the options say otherwise.
func (r *Restorer) InPlace(ctx context.Context, id string, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	id = strings.ToLower(id)
	place := r.site.Address() + " " + id
	if _, busy := placedVMs.LoadOrStore(place, true); busy {
		return nil, &hikae.BusyError{What: "VM " + id, Owner: "another restore of this program"}
	}
	d := &placeDraft{restorer: r, mark: newNoteOf(newMark(), restoresPlace), free: sync.OnceFunc(func() { placedVMs.Delete(place) })}
	if opts != nil {
		d.journal = opts.Journal
		if opts.VM != nil {
			d.from = *opts.VM
		}
	}
	if err := d.look(ctx, id); err != nil {
		d.free()
		return nil, err
	}
	return d, nil
}

// look refuses a VM that cannot be written over.
func (d *placeDraft) look(ctx context.Context, id string) (err error) {
	r := d.restorer
	if d.host, err = r.site.Owner(ctx, id); err != nil {
		return err
	}
	if err := d.host.canRestore(); err != nil {
		return err
	}
	if d.machine, err = d.host.Machine(ctx, id); err != nil {
		return err
	}
	r.site.trustFiles(d.machine)
	if err := d.host.realized(ctx, id, &d.set); err != nil {
		return err
	}
	m := d.machine
	n, marked := unfinishedOf(d.set.Notes)
	d.broken = marked
	switch {
	case marked && n.what == restoresNew:
		return unfinishedError(m.Name, d.set.Notes)
	case m.State != Off && !r.opts.PowerOff:
		return &RunningError{VM: m.Name, State: m.State}
	case m.doing(statusSnapshotting, statusDeleting, statusWaiting, statusMerging, statusMigrating):
		return &hikae.BusyError{What: "VM " + m.Name, Owner: "its host, which merges disks, or moves it"}
	}
	list, err := d.host.checkpoints(ctx, id)
	if err != nil {
		return err
	}
	var names []string
	for _, in := range list {
		d.points = append(d.points, strings.ToLower(in.Text("InstanceID")))
		names = append(names, in.Text("ElementName"))
	}
	slices.Sort(d.points)
	if len(names) > 0 && !r.opts.UnderCheckpoints {
		return &CheckpointsError{VM: m.Name, Names: names[:min(len(names), 32)]}
	}
	if d.store, err = r.site.Store(ctx, d.host); err != nil {
		return err
	}
	return d.refuseForeign(ctx, d.set.Notes)
}

// refuseForeign refuses a VM that another restore writes over, and lets one pass that a dead restore of ours has left: only so can it
// be made whole. What is ours is told by the mark: this process has left it, or an effect of a dead session of this journal
// names it. The machine's name, which stands there as well, is for people.
func (d *placeDraft) refuseForeign(ctx context.Context, notes []string) error {
	n, there := unfinishedOf(notes)
	if !there || d.restorer.opts.TakeOver || n.mark == d.mark.mark {
		return nil
	}
	if _, ours := deadPlacings.Load(n.mark); ours {
		return nil
	}
	for e, err := range d.pending(ctx) {
		if err == nil && e.Kind == kindRestore && e.Facts["mark"] == n.mark {
			return nil
		}
	}
	return n.busy(d.machine.Name)
}

// busy says who writes over a VM.
func (n unfinishedNote) busy(vm string) error {
	owner := "a restore in place that another program began"
	if n.by != "" {
		owner += " on machine " + n.by
	}
	if n.since != "" {
		owner += " at " + n.since
	}
	return &hikae.BusyError{What: "VM " + vm, Owner: owner + ", and that has not ended; if it is known to be dead, restore again from where it ran, or take over (takeover=yes)"}
}

// Ready looks at all disks that are to be written, marks the VM, opens their files, and voids what is known of their changes. On an
// error no disk was touched.
func (d *placeDraft) Ready(ctx context.Context, disks []hikae.Disk, since map[string]hikae.ChangeID) error {
	d.disks = nil
	for _, want := range disks {
		disk, err := d.find(want)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(d.disks, func(p *placeDisk) bool { return strings.EqualFold(p.Path, disk.Path) }) {
			return fmt.Errorf("disk %s of VM %s would be written twice: %w", disk.place(), d.machine.Name, fs.ErrInvalid)
		}
		d.disks = append(d.disks, disk)
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	return d.untrack(ctx, since)
}

// find finds the VM's disk that a disk of the point goes to: the one with its key, else the one of its size where it was attached.
func (d *placeDraft) find(want hikae.Disk) (*placeDisk, error) {
	all := d.machine.Disks
	i := slices.IndexFunc(all, func(k Disk) bool { return k.Key == want.Key })
	if i < 0 {
		if err := d.machine.twins(want.Key); err != nil {
			return nil, err
		}
		if place, _ := diskFact(d.from, want.Key); place != "" {
			i = slices.IndexFunc(all, func(k Disk) bool { return k.place() == place && k.Size == want.Size })
		}
		if i >= 0 {
			d.notes = append(d.notes, fmt.Sprintf("disk %s was written to %s of the VM, which has another id (%s): it is where that one was, and is as large", want.Key, all[i].place(), all[i].Key))
		}
	}
	if i < 0 {
		var there []string
		for _, k := range all {
			there = append(there, k.Key+" ("+k.place()+")")
		}
		return nil, fmt.Errorf("disk %s: VM %s has none of that key, and none of %d bytes where it was attached; it has %s: %w",
			want.Key, d.machine.Name, want.Size, strings.Join(there, ", "), fs.ErrNotExist)
	}
	k := all[i]
	switch {
	case k.Physical || k.Shared || k.Format == FormatVHDSet:
		return nil, fmt.Errorf("disk %s of VM %s is not the VM's alone (%s): restore to a new VM: %w", want.Key, d.machine.Name, k.uncovered(), errors.ErrUnsupported)
	case k.Problem != "":
		return nil, fmt.Errorf("disk %s of VM %s: %s: %w", want.Key, d.machine.Name, k.Problem, fs.ErrNotExist)
	case k.Format == FormatVHD:
		return nil, fmt.Errorf("disk %s of VM %s is a VHD, which cannot be written over: restore to a new VM: %w", want.Key, d.machine.Name, errors.ErrUnsupported)
	case k.Size != want.Size:
		return nil, fmt.Errorf("disk %s is %d bytes, in the point it is %d: resize it first, or restore to a new VM: %w", want.Key, k.Size, want.Size, fs.ErrInvalid)
	}
	return &placeDisk{Disk: k, key: want.Key}, nil
}

// begin writes down what is going to happen, in the journal and on the VM, and takes hold of the files.
func (d *placeDraft) begin(ctx context.Context) (err error) {
	m := d.machine
	if m.State != Off {
		if err := d.host.turn(ctx, m.ID, Off); err != nil {
			return fmt.Errorf("switch VM %s off: %w", m.Name, err)
		}
		d.notes = append(d.notes, "the VM was switched off, as asked")
	}
	if d.settle == nil {
		var held []string
		for _, p := range d.disks {
			info, err := vhdx.InspectIn(ctx, d.store, p.Path)
			if err != nil {
				return fmt.Errorf("disk %s: %w", p.key, err)
			}
			held = append(held, guidText(info.DataWrite)+" "+p.Path)
		}
		facts := map[string]string{"what": restoresPlace, "mark": d.mark.mark, "name": m.Name, "held": strings.Join(held, "\n")}
		if d.broken {
			facts["broken"] = "yes"
		}
		settle, err := d.restorer.intend(ctx, d.journal, d.host, m.ID, facts)
		if err != nil {
			return err
		}
		d.settle = settle
	}
	now, err := d.unaltered(ctx)
	if err != nil {
		return err
	}
	if err := d.refuseForeign(ctx, now.Notes); err != nil {
		return err
	}
	d.set = *now
	d.marked = true
	clean := withoutLines(now.Notes, func(line string) bool { return isUnfinishedLine(line) || isRestoredLine(line) })
	if err := d.host.noted(ctx, now.ID, atTop(clean, d.mark.String(), RestoredNote+d.mark.mark)); err != nil {
		return fmt.Errorf("mark VM %s as being restored: %w", m.Name, err)
	}
	for _, p := range d.disks {
		if p.file, err = d.store.OpenFile(ctx, p.Path); err != nil {
			return fmt.Errorf("disk %s: %w", p.key, err)
		}
	}
	_, err = d.unaltered(ctx) // of two that marked it at once the last one goes on
	return err
}

// unaltered looks at the VM. It is an error where it is not what it was when it was looked at first, or where our mark, once it
// is there, is not there any more.
func (d *placeDraft) unaltered(ctx context.Context) (*vmSettings, error) {
	m, err := d.host.Machine(ctx, d.machine.ID)
	if err != nil {
		return nil, err
	}
	var now vmSettings
	if err := d.host.realized(ctx, d.machine.ID, &now); err != nil {
		return nil, err
	}
	if m.State != Off {
		return nil, &RunningError{VM: m.Name, State: m.State}
	}
	if d.marked {
		switch n, there := unfinishedOf(now.Notes); {
		case !there:
			return nil, &AlteredError{VM: m.Name, What: "the line in its notes that says so was removed"}
		case n.mark != d.mark.mark:
			return nil, n.busy(m.Name)
		}
	}
	list, err := d.host.checkpoints(ctx, d.machine.ID)
	if err != nil {
		return nil, err
	}
	var points []string
	for _, in := range list {
		points = append(points, strings.ToLower(in.Text("InstanceID")))
	}
	slices.Sort(points)
	if !slices.Equal(points, d.points) {
		return nil, &AlteredError{VM: m.Name, What: "its checkpoints are others"}
	}
	for _, p := range d.disks {
		if !slices.ContainsFunc(m.Disks, func(k Disk) bool { return k.place() == p.place() && strings.EqualFold(k.Path, p.Path) }) {
			return nil, &AlteredError{VM: m.Name, What: fmt.Sprintf("disk %s is not %s any more", p.key, p.Path)}
		}
	}
	return &now, nil
}

func (d *placeDraft) disk(key string) (*placeDisk, error) {
	i := slices.IndexFunc(d.disks, func(p *placeDisk) bool { return p.key == key })
	if i < 0 {
		return nil, fmt.Errorf("disk %q: Ready did not name it: %w", key, fs.ErrNotExist)
	}
	return d.disks[i], nil
}

// OpenDisk implements [hikae.Draft]. What the target is given and differs from the disk is written; there is no way back.
func (d *placeDraft) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	if p.target != nil || p.file == nil {
		return nil, fmt.Errorf("disk %s: it is open already: %w", key, fs.ErrExist)
	}
	if _, err := d.unaltered(ctx); err != nil {
		return nil, err
	}
	file := p.file
	p.file = nil
	disk, err := vhdx.OpenDiskIn(ctx, file, p.Path, &vhdx.Options{Parents: d.store})
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", key, err)
	}
	if disk.Size() != p.Size {
		return nil, errors.Join(fmt.Errorf("disk %s: %s has %d bytes, and the host says %d", key, p.Path, disk.Size(), p.Size), disk.Close())
	}
	ready := func(ctx context.Context) error { _, err := d.unaltered(ctx); return err }
	p.target = newPlaceTarget(disk, ready, func() { p.whole = true })
	return p.target, nil
}

// Changed has no answer: a disk is compared as a whole, because what a tracker says of a VM that is off, and maybe was reverted
// since, is not worth a wrong byte.
func (d *placeDraft) Changed(context.Context, string, hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		yield(pipe.Extent{}, untrackedError{"a restore in place compares, and believes no record of changes"})
	}
}

// Reread reads a disk that was committed, by the file that is still open: nobody else can open it now.
func (d *placeDraft) Reread(_ context.Context, key string) (pipe.Image, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	if !p.whole {
		return nil, fmt.Errorf("disk %s was not written to its end: %w", key, fs.ErrInvalid)
	}
	return openDisk{p.target.disk}, nil
}

// Where implements job.Located.
func (d *placeDraft) Where() (name, host, folder string) {
	if len(d.disks) > 0 {
		folder = folderOf(d.disks[0].Path)
	}
	return d.machine.Name, d.host.info.Name, folder
}

// Notes are what a person should know about the VM that was written over.
func (d *placeDraft) Notes() []string { return slices.Clone(d.notes) }

// Commit closes the files in good order and takes the mark away. The VM can be started.
func (d *placeDraft) Commit(ctx context.Context) (string, error) {
	for _, p := range d.disks {
		if !p.whole {
			return "", fmt.Errorf("disk %s was not written to its end: %w", p.key, fs.ErrInvalid)
		}
		if p.target.blind.Load() {
			d.notes = append(d.notes, fmt.Sprintf("parts of disk %s could not be read before, and were written without a look", p.key))
		}
	}
	if _, err := d.unaltered(ctx); err != nil {
		return "", err
	}
	for _, p := range d.disks {
		if err := p.target.seal(ctx); err != nil {
			return "", fmt.Errorf("disk %s: %w", p.key, err)
		}
	}
	if err := d.unmark(ctx); err != nil {
		return "", err
	}
	d.closed = true
	d.free()
	if d.restorer.opts.PowerOn {
		return d.machine.ID, d.restorer.powerOn(ctx, d.host, d.machine.ID, d.machine.Name)
	}
	return d.machine.ID, nil
}

// unmark makes the VM one like any other again. A mark that is not ours stays: somebody else writes over the VM. The ledger's word
// stays in any case.
func (d *placeDraft) unmark(ctx context.Context) error {
	var now vmSettings
	if err := d.host.realized(ctx, d.machine.ID, &now); err != nil {
		return err
	}
	if n, _ := unfinishedOf(now.Notes); n.mark == d.mark.mark {
		notes := withoutLines(now.Notes, isUnfinishedLine)
		if err := d.host.noted(ctx, now.ID, notes); err != nil {
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
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	var errs []error
	touched := false
	for _, p := range d.disks {
		if p.file != nil {
			errs = append(errs, p.file.Close())
		}
		if p.target != nil {
			errs = append(errs, p.target.drop())
			touched = touched || p.target.touched.Load()
		}
	}
	switch {
	case !d.marked && d.settle == nil:
		return errors.Join(errs...)
	case d.marked && (touched || d.broken):
		deadPlacings.Store(d.mark.mark, true)
		return errors.Join(append(errs, &IncompleteError{VM: d.machine.Name, Mark: d.mark.mark, Since: d.mark.since})...)
	}
	return errors.Join(append(errs, d.unmark(ctx))...)
}

// undoPlace ends what a dead restore in place left. Where it wrote nothing, as the files themselves tell, the mark goes; where it did,
// nothing but another restore makes the VM whole, and it stays marked: that is an *IncompleteError.
func undoPlace(ctx context.Context, s *Site, e hikae.Effect, mark string) error {
	h, m, err := s.settled(ctx, e.VM)
	if err != nil || m == nil {
		return err
	}
	d := &placeDraft{restorer: &Restorer{site: s}, host: h, machine: m}
	n, there := unfinishedOf(d.machine.Notes)
	if !there || n.mark != mark {
		return nil
	}
	d.mark = n
	s.trustFiles(d.machine)
	if d.store, err = s.Store(ctx, h); err != nil {
		return err
	}
	if e.Facts["broken"] != "" {
		return &IncompleteError{VM: d.machine.Name, Mark: mark, Since: n.since}
	}
	for _, line := range linesOf(e.Facts["held"]) {
		was, file, _ := strings.Cut(line, " ")
		info, err := vhdx.InspectIn(ctx, d.store, file)
		if err != nil || guidText(info.DataWrite) != was || info.LogReplayed {
			return errors.Join(&IncompleteError{VM: d.machine.Name, Mark: mark, Since: n.since}, err)
		}
	}
	return d.unmark(ctx)
}

var (
	_ hikae.Draft = (*placeDraft)(nil)
)
