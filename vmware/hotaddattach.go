package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// kindHotAdd is a disk that hangs on a proxy VM, which is the VM of the effect. Its facts tell the place, the file and the UUID
// of the disk: what differs in one of them is not ours. The device's key is not among them, because the server chooses it, and
// may choose another one when the VM is registered anew.
const kindHotAdd = "vmware.hotadd"

func init() { undoers[kindHotAdd] = undoHotAdd }

// hotDisk is a disk that is going to be attached, is, or was.
//
//	effect written down ──► ReconfigVM, add ──► looked at: it is there ──► … ──► ReconfigVM, remove ──► looked at: gone ──► effect settled
//	      ▲                      └── refused: the place was taken meanwhile ─┐
//	      └──────────────────────── another place ◄──────────────────────────┘
type hotDisk struct {
	client  *Client
	journal hikae.Journal
	proxy   types.ManagedObjectReference
	vm      types.ManagedObjectReference // whose disk it is
	disk    Disk
	key     string // of the disk, for people
	most    int    // disks that the proxy VM may have at once
	clone   bool

	slot      hotSlot
	at        string // "scsi1:3"
	file      string // what hangs there: the pinned file, or the child of it
	made      string // the child; empty: none was made
	mode      string
	untracked string // the option that keeps the proxy's tracking away from the disk; empty: none was needed
	uuid      string // of the disk, as the server says it of what it attached
	devices   []types.BaseVirtualDevice
	done      func(context.Context) error // nil: there is no effect
	device    string                      // its name on this machine
}

func (t *byHotAdd) newHotDisk(p *Pinned, proxy types.ManagedObjectReference, write bool) *hotDisk {
	d := &hotDisk{client: p.Client, journal: p.Journal, proxy: proxy, vm: p.VM, disk: p.Disk, key: p.Disk.Key, most: t.opts.MaxDisks}
	d.mode = string(types.VirtualDiskModeIndependent_nonpersistent)
	d.clone = t.opts.LinkedClone && !write && p.Client.IsVCenter()
	if write || d.clone { // a child is ours alone, and a host has no need of another file to throw away
		d.mode = string(types.VirtualDiskModeIndependent_persistent)
	}
	return d
}

// hotPlaces are the disks that this process has attached to each proxy VM, and whose turn it is to change that VM: a host does
// one change of a VM at a time.
var hotPlaces struct {
	sync.Mutex
	of map[string]*hotPlace
}

type hotPlace struct {
	turn chan struct{}         // holds a token while nobody changes the VM
	used map[*hotDisk]struct{} // by this process; under the lock of hotPlaces
}

func (d *hotDisk) place() *hotPlace {
	hotPlaces.Lock()
	defer hotPlaces.Unlock()
	key := withPort(d.client.address.Host) + " " + d.proxy.Value
	if hotPlaces.of == nil {
		hotPlaces.of = map[string]*hotPlace{}
	}
	if hotPlaces.of[key] == nil {
		hotPlaces.of[key] = &hotPlace{turn: make(chan struct{}, 1), used: map[*hotDisk]struct{}{}}
		hotPlaces.of[key].turn <- struct{}{}
	}
	return hotPlaces.of[key]
}

// turn waits until nobody else of this process changes the proxy VM.
func (d *hotDisk) turn(ctx context.Context) (release func(), err error) {
	p := d.place()
	select {
	case <-p.turn:
		return func() { p.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("VM %s is being changed: %w", d.proxy.Value, ctx.Err())
	}
}

// enter takes one of the places that this process has at the proxy VM. Nobody waits for one: who holds a snapshot while waiting
// for a disk that another one holds might wait for ever.
func (d *hotDisk) enter() bool {
	p := d.place()
	hotPlaces.Lock()
	defer hotPlaces.Unlock()
	if len(p.used) >= d.most {
		return false
	}
	p.used[d] = struct{}{}
	return true
}

// leave gives the disk's place back.
func (d *hotDisk) leave() {
	p := d.place()
	hotPlaces.Lock()
	defer hotPlaces.Unlock()
	delete(p.used, d)
}

// vacate gives back what counts for a disk that does not hang on the proxy VM any more: its own place, and that of an earlier
// one which could not be detached and which whoever had it left to a sweep. The caller has the VM's turn, so that nobody
// is just attaching one there.
func (d *hotDisk) vacate() {
	p := d.place()
	hotPlaces.Lock()
	defer hotPlaces.Unlock()
	for o := range p.used {
		if o == d || o.at == d.at && o.file == d.file && o.mode == d.mode {
			delete(p.used, o)
		}
	}
}

const (
	attachTries = 6 // places that are tried, where others take them meanwhile
	detachTries = 4
)

// attach attaches the disk. Where it cannot, nothing is attached when it returns, or the effect stays for a sweep.
func (d *hotDisk) attach(ctx context.Context) error {
	if !d.enter() {
		return hotUnfit("", "%d disks hang on the proxy VM already", d.most)
	}
	release, err := d.turn(ctx)
	if err != nil {
		d.leave()
		return err
	}
	err = d.tryAttach(ctx)
	release()
	if err == nil {
		return nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTimeout)
	defer cancel()
	return errors.Join(err, d.detach(clean))
}

func (d *hotDisk) tryAttach(ctx context.Context) error {
	for try := 1; ; try++ {
		proxy, err := d.idle(ctx)
		if err != nil {
			return err
		}
		slots := hotSlots(proxy.Config.Hardware.Device)
		if len(slots) == 0 {
			return hotUnfit("add a controller to it: VMware Paravirtual", "all places of the proxy VM's SCSI controllers are taken")
		}
		if err := d.take(ctx, proxy, slots[0]); err != nil {
			return err
		}
		err = d.add(ctx)
		there, lookErr := d.look(ctx)
		switch {
		case lookErr != nil:
			return errors.Join(err, lookErr)
		case there != nil:
			return d.accept(*there) // whatever was said: it is there
		case err == nil:
			return fmt.Errorf("the server says that it was attached at %s, and it is not there", d.at)
		}
		if ctx.Err() != nil || try == attachTries || !worthAnotherPlace(err) {
			return err
		}
		if err := d.settle(ctx); err != nil {
			return err
		}
		if err := sleep(ctx, firstPause<<(try-1)); err != nil {
			return err
		}
	}
}

// worthAnotherPlace: somebody else took the place, or changed the VM at the same time; or nobody knows what the server did with
// the call, and it did not do it.
func worthAnotherPlace(err error) bool {
	return !isAnswer(err) || isFault[*types.InvalidDeviceSpec](err) && !isFault[*types.InvalidDeviceBacking](err) || isFault[*types.TooManyDevices](err) ||
		isFault[*types.TaskInProgress](err) || isFault[*types.ConcurrentAccess](err)
}

// take chooses a place, and writes down what is going to hang there.
func (d *hotDisk) take(ctx context.Context, proxy *machine, s hotSlot) error {
	d.slot, d.at, d.file, d.uuid, d.devices = s, s.String(), d.disk.File, d.disk.UUID, proxy.Config.Hardware.Device
	d.untracked = ""
	if isTrue(proxy.Config.ChangeTrackingEnabled) {
		d.untracked = d.at + ".ctkEnabled"
	}
	facts := map[string]string{"uuid": proxy.Config.InstanceUuid, "of": d.vm.Value, "slot": d.at, "mode": d.mode, "untracked": d.untracked}
	if d.clone {
		d.made = path.Dir(proxy.Config.Files.VmPathName) + "/" + namePrefixOfChild + newMark() + ".vmdk"
		d.file, d.uuid, facts["made"] = d.made, "", d.made
	}
	facts["file"], facts["disk"] = d.file, d.uuid
	done, err := intend(ctx, d.journal, d.client.effect(kindHotAdd, d.proxy.Value, facts))
	if err != nil {
		return err
	}
	d.done = done
	return nil
}

const namePrefixOfChild = "hikae-"

// add asks the server for the change, and waits for it.
func (d *hotDisk) add(ctx context.Context) error {
	store := d.disk.Datastore
	backing := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: d.disk.File, Datastore: &store}, DiskMode: d.mode,
	}
	change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd}
	if d.clone {
		parent := backing
		parent.DiskMode = ""
		backing = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: d.made}, DiskMode: d.mode, Parent: parent,
		}
		change.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
	}
	change.Device = &types.VirtualDisk{
		VirtualDevice:   types.VirtualDevice{Key: -1, ControllerKey: d.slot.controller, UnitNumber: &d.slot.unit, Backing: backing},
		CapacityInBytes: d.disk.Size, CapacityInKB: d.disk.Size >> 10,
	}
	return d.reconfigure(ctx, "attach", change, "FALSE")
}

// remove takes what hangs at the place away. Files stay, but for a child that was made for this alone.
func (d *hotDisk) remove(ctx context.Context, there *Disk) error {
	change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: there.Virtual}
	if d.made != "" {
		change.FileOperation = types.VirtualDeviceConfigSpecFileOperationDestroy
	}
	return d.reconfigure(ctx, "detach", change, "")
}

func (d *hotDisk) reconfigure(ctx context.Context, what string, change types.BaseVirtualDeviceConfigSpec, tracked string) error {
	spec := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{change}}
	if d.untracked != "" {
		spec.ExtraConfig = []types.BaseOptionValue{&types.OptionValue{Key: d.untracked, Value: tracked}}
	}
	res, err := methods.ReconfigVM_Task(ctx, d.client.vim, &types.ReconfigVM_Task{This: d.proxy, Spec: spec})
	if err == nil {
		_, err = d.client.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return fmt.Errorf("%s %s at %s of VM %s: %w", what, d.file, d.at, d.proxy.Value, err)
	}
	return nil
}

// idle is the proxy VM when no change of it is under way: one of a session that died may still be.
func (d *hotDisk) idle(ctx context.Context) (*machine, error) {
	for wait := firstPause; ; wait = min(2*wait, pollEvery) {
		m, err := d.client.machine(ctx, d.proxy)
		if err != nil {
			return nil, err
		}
		task, err := d.client.underWay(ctx, m.RecentTask, "reconfig")
		if err != nil || task == nil {
			return m, err
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("VM %s is being changed by task %s: %w", d.proxy.Value, task.Key, err)
		}
	}
}

// look finds the disk; nil: it is not there, and not on its way.
func (d *hotDisk) look(ctx context.Context) (*Disk, error) {
	proxy, err := d.idle(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d.among(proxy.Config.Hardware.Device), nil
}

// among finds the disk by its place, its file, its mode and its UUID. What differs in one of them belongs to somebody else.
func (d *hotDisk) among(devices []types.BaseVirtualDevice) *Disk {
	for _, is := range disksOf(devices) {
		sameUUID := d.uuid == "" || is.UUID == "" || strings.EqualFold(d.uuid, is.UUID)
		if is.Slot == d.at && sameUUID && modeOf(is.Virtual) == d.mode && is.standsOn(d.file) {
			return &is
		}
	}
	return nil
}

// standsOn: a disk is this file, or a host laid another one over it, as it does for what is thrown away.
func (d *Disk) standsOn(file string) bool {
	if d.File == file {
		return true
	}
	b, _ := d.Virtual.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	for n := 0; b != nil && n < maxChain; n++ {
		if b.FileName == file {
			return true
		}
		b = b.Parent
	}
	return false
}

const maxChain = 64 // files of one disk; hosts allow 32 snapshots

// accept compares what was attached with what was asked for.
func (d *hotDisk) accept(there Disk) error {
	d.uuid = there.UUID
	switch {
	case there.UUID == "":
		return hotUnfit("", "the server does not tell the UUID of what it attached")
	case !d.clone && !strings.EqualFold(there.UUID, d.disk.UUID):
		return hotUnfit("", "%s was attached, and is disk %s instead of %s", d.file, there.UUID, d.disk.UUID)
	case there.Size != 0 && there.Size != d.disk.Size:
		return hotUnfit("", "%s was attached, and is %d bytes instead of %d", d.file, there.Size, d.disk.Size)
	}
	return nil
}

// detach returns nil when the disk does not hang on the proxy VM and is not on its way there. It may be called again.
func (d *hotDisk) detach(ctx context.Context) error {
	if d.done == nil {
		d.leave()
		return nil
	}
	release, err := d.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := d.vanish(ctx); err != nil {
		return err
	}
	d.vacate()
	return d.settle(ctx)
}

func (d *hotDisk) vanish(ctx context.Context) error {
	removed := false
	var errs []error
	for try := 0; ; {
		there, err := d.look(ctx)
		switch {
		case err != nil:
			return errors.Join(append(errs, err)...)
		case there == nil && (removed || d.made == ""):
			return nil
		case there == nil:
			return d.client.deleteChild(ctx, d.proxy, d.made)
		case try == detachTries:
			return errors.Join(errs...)
		}
		err = d.remove(ctx, there)
		switch {
		case err == nil:
			removed = true
			try++
		case isFault[*types.TaskInProgress](err): // somebody else changes the VM; that ends, or ctx does
			if err := sleep(ctx, pollEvery); err != nil {
				return fmt.Errorf("detach %s: the VM has other work: %w", d.file, err)
			}
		default:
			errs = append(errs, err)
			if err := sleep(ctx, firstPause<<try); err != nil {
				return errors.Join(append(errs, err)...)
			}
			try++
		}
	}
}

func (d *hotDisk) settle(ctx context.Context) error {
	if d.done == nil {
		return nil
	}
	if err := d.done(ctx); err != nil {
		return err
	}
	d.done = nil
	return nil
}

// deleteChild removes a child disk that hangs nowhere. Its name has a mark of ours.
func (c *Client) deleteChild(ctx context.Context, vm types.ManagedObjectReference, file string) error {
	dc, err := c.datacenterRef(ctx, vm)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	req := &types.DeleteVirtualDisk_Task{This: *c.vim.ServiceContent.VirtualDiskManager, Name: file, Datacenter: dc}
	res, err := methods.DeleteVirtualDisk_Task(ctx, c.vim, req)
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if err == nil || isFault[*types.FileNotFound](err) {
		return nil
	}
	// Other faults, too, may mean that it is not there: to look for it first would ask for one more privilege each time.
	if there, lookErr := c.hasFile(ctx, vm, file); lookErr == nil && !there {
		return nil
	}
	return fmt.Errorf("delete %s: %w", file, err)
}

// hasFile asks whether a file is on its datastore.
func (c *Client) hasFile(ctx context.Context, vm types.ManagedObjectReference, file string) (bool, error) {
	all, err := storesOf(ctx, c, vm)
	if err != nil {
		return false, err
	}
	at, err := all.find(file)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, fileURL(c, at).String(), nil)
	if err != nil {
		return false, err
	}
	res, err := plain(c.HTTP()).Do(req)
	if err != nil {
		return false, unwrapURL(err)
	}
	res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, &StatusError{http.MethodHead, at.String(), res.StatusCode}
}

// datacenterRef is the datacenter that a VM lies in; nil: in none, as far as the user may see.
func (c *Client) datacenterRef(ctx context.Context, vm types.ManagedObjectReference) (*types.ManagedObjectReference, error) {
	above, err := mo.Ancestors(ctx, c.vim, c.vim.ServiceContent.PropertyCollector, vm)
	if err != nil {
		return nil, fmt.Errorf("datacenter of VM %s: %w", vm.Value, err)
	}
	for _, e := range above {
		if e.Self.Type == "Datacenter" {
			return &e.Self, nil
		}
	}
	return nil, nil
}

// undoHotAdd detaches what a dead session left on a proxy VM.
func undoHotAdd(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	d := &hotDisk{client: c, at: e.Facts["slot"], file: e.Facts["file"], uuid: e.Facts["disk"], mode: e.Facts["mode"],
		made: e.Facts["made"], untracked: e.Facts["untracked"]}
	d.done = func(context.Context) error { return nil } // the journal's own
	if d.at == "" || d.file == "" || d.mode == "" || d.made == "" && d.uuid == "" {
		return fmt.Errorf("effect %s: it does not tell which disk: %w", e.ID, fs.ErrInvalid)
	}
	if d.made != "" && !isChild(d.made) {
		return fmt.Errorf("effect %s: %q is no file of ours: %w", e.ID, d.made, fs.ErrInvalid)
	}
	vm, found, err := c.sameVM(ctx, e)
	if err != nil || !found {
		return err
	}
	d.proxy = vm
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	return d.detach(ctx)
}

// isChild: the name is one that take makes.
func isChild(file string) bool {
	var at object.DatastorePath
	if !at.FromString(file) {
		return false
	}
	mark, ours := strings.CutPrefix(path.Base(at.Path), namePrefixOfChild)
	mark, ext := strings.CutSuffix(mark, ".vmdk")
	return ours && ext && goodMark.MatchString(mark)
}

// wanted is how this machine must show the disk.
func (d *hotDisk) wanted() wantedDisk {
	w := wantedDisk{slot: d.slot, uuid: plainUUID(d.uuid), size: d.disk.Size}
	buses := map[int32]int32{}
	for _, dev := range d.devices {
		if c, ok := dev.(types.BaseVirtualSCSIController); ok {
			buses[c.GetVirtualSCSIController().Key] = c.GetVirtualSCSIController().BusNumber
		}
	}
	for _, is := range disksOf(d.devices) {
		if bus, scsi := buses[is.Virtual.ControllerKey]; scsi && is.UUID != "" && is.Virtual.UnitNumber != nil {
			w.anchors = append(w.anchors, hotAnchor{uuid: plainUUID(is.UUID), bus: bus, unit: *is.Virtual.UnitNumber})
		}
	}
	return w
}
