package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// A new VM is made in these steps. Until it is sealed it bears a mark, by which a later session knows that it may destroy it.
//
//	everything is looked at: the record, where it goes, its networks, room, its name
//	the effect is written down, with a mark and the instance UUID that the VM will have
//	the VM is made, off, with its mark, its devices and its empty disks
//	each disk is written by a transport
//	the firmware's variables are put back
//	the mark goes, what needs keys of devices is set, the VM has its own identity: it is whole
//	it is started, where that was asked for

// newVM is a VM that is being made. It is a job.Noter and a job.Rereader.
type newVM struct {
	restorer *Restorer
	vm       hikae.VM
	was      *types.VirtualMachineConfigInfo // nil: no vSphere recorded it
	name     string
	where    *where
	spec     types.VirtualMachineConfigSpec
	hardware *hardware
	files    map[string]string // of disks that are there already, by key: see Start
	journal  hikae.Journal

	mark, instance string
	folder         types.ManagedObjectReference
	ref            types.ManagedObjectReference
	machine        *machine
	disks          map[string]*newVMDisk
	notes          []string
	settle         func(context.Context) error
	unheard        bool // nobody knows whether the server makes the VM: its answer was lost
	sealed, closed bool
}

// newVMDisk is one disk of it.
type newVMDisk struct {
	Disk
	target pipe.Target
	whole  bool
}

// Create implements [hikae.Restorer]. The VM is described by config.xml in vm.Config; where that is missing, because another
// hypervisor recorded it, it gets plain hardware. The id that Commit returns is the VM's reference. A name that is taken in
// the folder is an fs.ErrExist. Overwrite does not change that: a VM is replaced by writing over its disks, see
// [Restorer.InPlace], or by a person who destroys it first. Nothing is written, and no VM made, where this is an error.
func (r *Restorer) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	d := &newVM{restorer: r, vm: vm, name: vm.Name, mark: newMark(), instance: newInstance(), disks: map[string]*newVMDisk{}}
	if opts != nil {
		d.journal = opts.Journal
		if opts.Name != "" {
			d.name = opts.Name
		}
	}
	if err := d.plan(ctx); err != nil {
		return nil, fmt.Errorf("new VM %q: %w", d.name, err)
	}
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("new VM %q: %w", d.name, errors.Join(err, d.Close()))
	}
	return d, nil
}

const maxName = 80 // characters that vSphere allows

func checkName(name string) error {
	if name == "" || len([]rune(name)) > maxName || strings.ContainsFunc(name, isControlRune) {
		return fmt.Errorf("%w: a VM's name has 1 to %d characters", fs.ErrInvalid, maxName)
	}
	return nil
}

// plan looks at everything and touches nothing.
func (d *newVM) plan(ctx context.Context) (err error) {
	if err := errors.Join(checkName(d.name), checkDisks(d.vm)); err != nil {
		return err
	}
	if d.was, err = readRecord(d.vm.Config); err != nil {
		return err
	}
	if d.where, err = d.restorer.place(ctx, d.vm); err != nil {
		return err
	}
	d.folder = d.where.folder.ref
	if _, taken, err := d.restorer.client.byName(ctx, d.folder, d.name); err != nil {
		return err
	} else if taken {
		return fmt.Errorf("%s has something of that name: %w", d.where.folder.name, fs.ErrExist)
	}
	if err := d.planHardware(ctx); err != nil {
		return err
	}
	return d.where.room(d.hardware.need)
}

func (d *newVM) planHardware(ctx context.Context) error {
	nets, err := d.restorer.networks(ctx, d.where)
	if err != nil {
		return err
	}
	home, err := d.home()
	if err != nil {
		return err
	}
	h := &hardware{opts: d.restorer.opts, nets: nets, where: d.where, home: home, files: d.files,
		keys: map[int32]int32{}, disks: map[string]newDisk{}, need: map[string]int64{}, nextKey: -100}
	d.hardware = h
	if d.was != nil {
		d.spec, d.notes = specOf(d.was, d.restorer.opts.KeepIdentity)
		err = h.devices(ctx, d.was, d.vm.Disks)
	} else {
		d.spec, d.notes = plainSpec(d.vm, d.restorer.opts.Plain)
		err = h.plain(ctx, d.vm)
	}
	if err == nil {
		err = errors.Join(d.knownDisks(), nets.allUsed())
	}
	if err != nil {
		return err
	}
	d.spec.Name, d.spec.DeviceChange = d.name, h.changes
	d.spec.Files = &types.VirtualMachineFileInfo{VmPathName: "[" + home + "]"}
	d.notes = slices.Concat(d.where.notes, d.notes, h.notes)
	return nil
}

// knownDisks refuses a datastore for a disk that there is not: somebody meant another one.
func (d *newVM) knownDisks() error {
	for key := range d.restorer.opts.DiskDatastores {
		if !slices.ContainsFunc(d.vm.Disks, func(w hikae.Disk) bool { return w.Key == key }) {
			return fmt.Errorf("a datastore was named for disk %q, and there is none of that key: %w", key, fs.ErrInvalid)
		}
	}
	return nil
}

// home is the datastore that the VM's own files go to.
func (d *newVM) home() (string, error) {
	name := d.restorer.opts.Datastore
	if name == "" && d.was != nil {
		name = datastoreOf(d.was.Files.VmPathName)
	}
	s, err := d.where.store(name)
	return s.Summary.Name, err
}

// begin writes down what is going to happen, and makes the VM.
func (d *newVM) begin(ctx context.Context) (err error) {
	c := d.restorer.client
	d.settle, err = intend(ctx, d.journal, c.effect(kindRestore, d.vm.Name, map[string]string{
		"what": restoresNew, "mark": d.mark, "uuid": d.instance, "folder": d.folder.Value, "name": d.name,
	}))
	if err != nil {
		return err
	}
	annotation := d.spec.Annotation
	spec := d.spec
	spec.InstanceUuid = d.instance
	spec.Annotation = unfinishedLine(d.mark) + annotation
	spec.ExtraConfig = append(slices.Clone(spec.ExtraConfig), &types.OptionValue{Key: keyUnfinished, Value: d.mark})
	off := false
	spec.ChangeTrackingEnabled = &off
	if err := d.make(ctx, spec); err != nil {
		return err
	}
	if d.machine, err = c.machine(ctx, d.ref); err != nil {
		return err
	}
	if err := d.matchDisks(); err != nil {
		return err
	}
	return d.ownFiles(ctx)
}

func (d *newVM) make(ctx context.Context, spec types.VirtualMachineConfigSpec) error {
	c := d.restorer.client
	// A call that is given up on its way may still arrive, after everybody has looked that there is no VM. So it is never cut
	// short: it has a bound of its own.
	res, err := methods.CreateVM_Task(context.WithoutCancel(ctx), c.vim, &types.CreateVM_Task{
		This: d.folder, Config: spec, Pool: d.where.pool, Host: &d.where.host.ref,
	})
	if err != nil {
		d.unheard = !isAnswer(err)
		return d.taken(err)
	}
	info, err := c.Wait(ctx, res.Returnval)
	if lost := (*TaskLostError)(nil); errors.As(err, &lost) {
		ref, found, findErr := c.byInstance(ctx, d.instance)
		if d.ref = ref; found {
			return nil
		}
		return errors.Join(err, findErr)
	}
	if err != nil {
		return d.taken(err)
	}
	ref, ok := info.Result.(types.ManagedObjectReference)
	if !ok || ref.Value == "" {
		return fmt.Errorf("task %s ended well and names no VM", res.Returnval.Value)
	}
	d.ref = ref
	return nil
}

// taken makes of a name that somebody took meanwhile what callers know.
func (d *newVM) taken(err error) error {
	if isFault[*types.DuplicateName](err) || isFault[*types.AlreadyExists](err) || isFault[*types.FileAlreadyExists](err) {
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	return err
}

// matchDisks finds out which disk of the new VM is to hold which of the point's. Slots tell: all else the server chose.
func (d *newVM) matchDisks() error {
	there := map[string]Disk{}
	for _, disk := range d.machine.disks {
		there[disk.Slot] = disk
	}
	for key, want := range d.hardware.disks {
		disk, ok := there[want.slot]
		if !ok {
			return fmt.Errorf("disk %s: the VM was made without a disk at %s", key, want.slot)
		}
		if disk.Size != want.size {
			return fmt.Errorf("disk %s: %d bytes were asked for at %s, the VM has %d", key, want.size, want.slot, disk.Size)
		}
		d.disks[key] = &newVMDisk{Disk: disk}
	}
	return nil
}

func (d *newVM) pinned(disk Disk) *Pinned {
	return &Pinned{Client: d.restorer.client, VM: d.ref, Host: deref(d.machine.Runtime.Host), Name: d.name, Disk: disk,
		Journal: d.journal, Scratch: d.restorer.opts.Scratch}
}

// OpenDisk implements [hikae.Draft].
func (d *newVM) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	disk := d.disks[key]
	if disk == nil || !slices.ContainsFunc(d.vm.Disks, func(w hikae.Disk) bool { return w.Key == key }) {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	if disk.target != nil {
		return nil, fmt.Errorf("disk %s: it is open already: %w", key, fs.ErrExist)
	}
	p := d.pinned(disk.Disk)
	p.Fresh = true
	to, choice, err := d.restorer.by.openTarget(ctx, p)
	if err != nil {
		return nil, err
	}
	choice.Disk = key
	d.notes = append(d.notes, "written by "+choice.String())
	disk.target = freshTarget(to, func() { disk.whole = true })
	return disk.target, nil
}

// Reread opens a disk that was committed.
func (d *newVM) Reread(ctx context.Context, key string) (pipe.Image, error) {
	disk := d.disks[key]
	if disk == nil || !disk.whole {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	img, _, err := d.restorer.by.open(ctx, d.pinned(disk.Disk))
	return img, err
}

// Notes are what a person should know about the VM that was made.
func (d *newVM) Notes() []string { return slices.Clone(d.notes) }

// Commit makes the VM whole. Where it is whole and could not be started, that is a *PowerOnError, with the VM's id.
func (d *newVM) Commit(ctx context.Context) (string, error) {
	for _, want := range d.vm.Disks {
		if disk := d.disks[want.Key]; disk == nil || !disk.whole {
			return "", fmt.Errorf("disk %s was not written to its end: %w", want.Key, fs.ErrInvalid)
		}
	}
	if d.restorer.opts.KeepIdentity {
		d.keepDiskIDs(ctx)
	}
	if nvram := recordedNVRAM(d.vm.Config); nvram != nil {
		d.putNVRAM(ctx, nvram)
	}
	if err := d.seal(ctx); err != nil {
		return "", err
	}
	if err := d.settle(ctx); err != nil {
		return d.ref.Value, err
	}
	d.closed = true
	if d.restorer.opts.PowerOn {
		return d.ref.Value, d.restorer.powerOn(ctx, d.ref, d.name)
	}
	return d.ref.Value, nil
}

// seal takes the mark away, and sets what could not be set before.
func (d *newVM) seal(ctx context.Context) error {
	spec := types.VirtualMachineConfigSpec{
		Annotation:  annotationOf(d.spec.Annotation),
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyUnfinished, Value: ""}, &types.OptionValue{Key: keyFiles, Value: ""}},
	}
	if d.was != nil && d.restorer.opts.KeepIdentity {
		spec.InstanceUuid = d.freeInstance(ctx)
	}
	if err := d.restorer.client.reconfigure(ctx, d.ref, spec); err != nil {
		if done, lookErr := d.isSealed(ctx); lookErr != nil || !done {
			return errors.Join(fmt.Errorf("seal VM %s: %w", d.ref.Value, err), lookErr)
		}
	}
	d.sealed = true
	if d.was != nil {
		d.trim(ctx)
	}
	return nil
}

// isSealed looks whether a call whose answer was lost did what it was to do.
func (d *newVM) isSealed(ctx context.Context) (bool, error) {
	m, err := d.restorer.client.machine(ctx, d.ref)
	if err != nil {
		return false, err
	}
	return settingOf(m.Config, keyUnfinished) == "", nil
}

// freeInstance is the recorded instance UUID, where no other VM has it.
func (d *newVM) freeInstance(ctx context.Context) string {
	if d.was.InstanceUuid == "" {
		return ""
	}
	other, taken, err := d.restorer.client.byInstance(ctx, d.was.InstanceUuid)
	switch {
	case err != nil:
		d.notes = append(d.notes, fmt.Sprintf("the VM has another instance UUID than it had: %v", err))
		return ""
	case taken && other != d.ref:
		d.notes = append(d.notes, fmt.Sprintf("the VM has another instance UUID than it had: VM %s has that one", other.Value))
		return ""
	}
	return d.was.InstanceUuid
}

// trim sets what a VM can do without: nothing of it is worth a VM that is whole.
func (d *newVM) trim(ctx context.Context) {
	spec, any := d.trimmings()
	if !any {
		return
	}
	if err := d.restorer.client.reconfigure(ctx, d.ref, spec); err != nil {
		d.notes = append(d.notes, fmt.Sprintf("its display and the order in which it boots are the defaults: %v", err))
	}
}

// newCleanup bounds what is done after the caller's context may have ended.
const newCleanup = 5 * time.Minute

// Close implements [hikae.Draft]: without a Commit, the VM is destroyed.
func (d *newVM) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(d.disks)) {
		if t := d.disks[key].target; t != nil {
			errs = append(errs, t.Close())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), newCleanup)
	defer cancel()
	if d.settle == nil {
		return errors.Join(errs...)
	}
	if !d.sealed {
		if err := d.restorer.client.destroyUnfinished(ctx, d.unfinished()); err != nil {
			return errors.Join(append(errs, fmt.Errorf("destroy VM %q, which is not whole: %w", d.name, err))...)
		}
	}
	if d.unheard { // it may yet come: a sweep looks again
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, d.settle(ctx))...)
}

func (d *newVM) unfinished() unfinishedVM {
	return unfinishedVM{mark: d.mark, instance: d.instance, name: d.name, folder: d.folder}
}
