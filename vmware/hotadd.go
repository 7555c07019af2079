package vmware

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/pipe"
)

// HotAddOptions change how disks are attached to the VM that this program runs in. Nil and zero fields are good defaults.
type HotAddOptions struct {
	// Proxy is the VM that this program runs in, by its name or reference. Empty: it is found by the UUID that this machine's
	// firmware tells, which root alone may read. One that is named and is not this machine, as far as can be told, is refused.
	Proxy string
	// LinkedClone has a vCenter Server attach a child of the pinned file instead of the file itself. The child is a new file in
	// the folder of the proxy VM and goes when it is detached. A single host is never asked for one.
	LinkedClone bool
	// AcrossHosts attaches disks that lie on NFS 3 although their VM runs on another host than the proxy does. Such VMs were seen
	// to stand still for seconds when the disk is detached and the snapshot goes (VMware KB 2010953).
	AcrossHosts bool
	// MaxDisks is how many disks this process has attached to one proxy VM at once. Zero: 15, which is one controller. At most 60.
	// A disk that finds no place does not wait for one: another transport is tried.
	MaxDisks int
	// DeviceTimeout is how long the system of this machine may take to show an attached disk. Zero: one minute.
	DeviceTimeout time.Duration
	// Root is the folder that sys and dev are in. Empty: that of this machine's own.
	Root string
}

func (o *HotAddOptions) withDefaults() HotAddOptions {
	var out HotAddOptions
	if o != nil {
		out = *o
	}
	out.MaxDisks = within(out.MaxDisks, unitsPerBus, maxHotDisks)
	orElse(&out.DeviceTimeout, time.Minute)
	if out.Root == "" {
		out.Root = "/"
	}
	return out
}

// byHotAdd attaches disks to the VM that this program runs in, and reads and writes them as its own (R108 to R111, R115, R116).
// Nothing crosses the network: the proxy's host reads the datastore.
//
//	ReconfigVM: add file at scsi1:3 ──► /sys/class/scsi_disk/3:0:3:0, naa.6000c29… ──► /dev/sdc, O_DIRECT
//	            remove it again     ◄── closed, and forgotten by the system       ◄──
//
// What is attached to read is the file that the snapshot pinned, independent and nonpersistent: its host opens it without a
// lock for writing, and nothing that this machine's system might write goes into it. A child of that file, as a linked clone
// has, would be one more file to make, to lock and to remove for each disk, and needs room on the proxy's datastore; it is made
// where it is asked for. No controller is added: what of the proxy VM changes is its disks.
type byHotAdd struct {
	opts  HotAddOptions
	guest hotGuest

	mu    sync.Mutex
	found map[string]types.ManagedObjectReference // the proxy VM, by server
}

func newHotAdd(opts *HotAddOptions) *byHotAdd {
	o := opts.withDefaults()
	return &byHotAdd{opts: o, guest: hotGuest{root: o.Root}, found: map[string]types.ManagedObjectReference{}}
}

func (t *byHotAdd) Name() string { return HotAdd }

func hotUnfit(hint, format string, args ...any) error {
	return &UnfitError{Transport: HotAdd, Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// Check implements [Transport].
func (t *byHotAdd) Check(ctx context.Context, p *Pinned) error {
	if p.Snapshot.Value == "" && p.PoweredOn {
		return hotUnfit("", "the VM runs, and its host lets nobody have a disk that it writes to")
	}
	_, err := t.proxyFor(ctx, p)
	return asUnfit(HotAdd, err)
}

// CheckTarget implements [Writer].
func (t *byHotAdd) CheckTarget(ctx context.Context, p *Pinned) error {
	if p.PoweredOn {
		return hotUnfit("", "the VM runs, and its host lets nobody have a disk that it writes to")
	}
	_, err := t.proxyFor(ctx, p)
	return asUnfit(HotAdd, err)
}

// proxyFor finds the VM that the disk can be attached to.
func (t *byHotAdd) proxyFor(ctx context.Context, p *Pinned) (*machine, error) {
	if runtime.GOOS != "linux" {
		return nil, hotUnfit("run it in a VM with Linux", "attached disks are found on Linux only, this is %s", runtime.GOOS)
	}
	proxy, err := t.findProxy(ctx, p.Client)
	if err != nil {
		return nil, err
	}
	if err := proxyFit(proxy); err != nil {
		return nil, err
	}
	return proxy, t.mayAttach(ctx, p, proxy)
}

// Open implements [Transport]. Closing the image detaches the disk.
func (t *byHotAdd) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	d, name, err := t.attach(ctx, p, false)
	if err != nil {
		return nil, err
	}
	img, err := openHotImage(t.guest, name, d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", HotAdd, err), t.detach(d))
	}
	keepFromWriting(img.f)
	img.undo = func() error { return t.detach(d) }
	return img, nil
}

// OpenTarget implements [Writer]. The target has a base: what the disk holds.
func (t *byHotAdd) OpenTarget(ctx context.Context, p *Pinned) (pipe.Target, error) {
	d, name, err := t.attach(ctx, p, true)
	if err != nil {
		return nil, err
	}
	target, err := openHotTarget(t.guest, name, d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", HotAdd, err), t.detach(d))
	}
	target.undo = func() error { return t.detach(d) }
	return target, nil
}

// attach attaches the disk and waits until this machine shows it.
func (t *byHotAdd) attach(ctx context.Context, p *Pinned, write bool) (d *hotDisk, name string, err error) {
	proxy, err := t.proxyFor(ctx, p)
	if err != nil {
		return nil, "", asUnfit(HotAdd, err)
	}
	d = t.newHotDisk(p, proxy.Self, write)
	if err := d.attach(ctx); err != nil {
		return nil, "", asUnfit(HotAdd, err)
	}
	wait, cancel := context.WithTimeout(ctx, t.opts.DeviceTimeout)
	defer cancel()
	name, err = t.guest.find(wait, d.wanted())
	if err != nil {
		return nil, "", errors.Join(asUnfit(HotAdd, err), t.detach(d))
	}
	d.device = name
	return d, name, nil
}

// detach takes the disk away from the proxy VM, when the system of this machine has let go of it. It may be called again.
func (t *byHotAdd) detach(d *hotDisk) error {
	if d.device != "" {
		t.guest.forget(d.device, d.wanted())
	}
	ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
	defer cancel()
	if err := d.detach(ctx); err != nil {
		return fmt.Errorf("%s: disk %s stays attached to VM %s: %w", HotAdd, d.key, d.proxy.Value, err)
	}
	return nil
}

const (
	unitsPerBus   = 15 // disks of one SCSI controller
	maxHotDisks   = 4 * unitsPerBus
	detachTimeout = 10 * time.Minute
	ownUnit       = 7  // of the controller itself
	lastUnit      = 15 // paravirtual controllers of newer hardware have more; not all systems see those
)

var _ Writer = (*byHotAdd)(nil)

// hotSlot is a free place of a proxy VM.
type hotSlot struct {
	controller int32 // key
	bus, unit  int32
	driver     string // of the controller, in Linux
}

func (s hotSlot) String() string { return fmt.Sprintf("scsi%d:%d", s.bus, s.unit) }

// hotSlots are the free places, those on paravirtual controllers first. Two kinds of controllers are used, because on them
// Linux gives a disk the unit for its SCSI target; on SAS ones it counts.
func hotSlots(devices []types.BaseVirtualDevice) (out []hotSlot) {
	taken := map[[2]int32]bool{}
	for _, d := range devices {
		if v := d.GetVirtualDevice(); v.UnitNumber != nil {
			taken[[2]int32{v.ControllerKey, *v.UnitNumber}] = true
		}
	}
	for _, driver := range []string{driverPVSCSI, driverLSI} {
		for _, d := range devices {
			scsi, ok := d.(types.BaseVirtualSCSIController)
			if !ok || hotDriver(d) != driver {
				continue
			}
			c := scsi.GetVirtualSCSIController()
			if c.SharedBus != "" && c.SharedBus != types.VirtualSCSISharingNoSharing {
				continue
			}
			for unit := int32(0); unit <= lastUnit; unit++ {
				if unit != ownUnit && !taken[[2]int32{c.Key, unit}] {
					out = append(out, hotSlot{controller: c.Key, bus: c.BusNumber, unit: unit, driver: driver})
				}
			}
		}
	}
	return out
}

const (
	driverPVSCSI = "vmw_pvscsi"
	driverLSI    = "mptspi"
)

// hotDriver is the driver of a controller that disks are attached to; empty for others.
func hotDriver(d types.BaseVirtualDevice) string {
	switch d.(type) {
	case *types.ParaVirtualSCSIController:
		return driverPVSCSI
	case *types.VirtualLsiLogicController:
		return driverLSI
	}
	return ""
}
