package vmware

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// hardware are the devices of a new VM.
type hardware struct {
	opts     RestorerOptions
	nets     *networks
	where    *where
	home     string            // datastore
	files    map[string]string // of disks that are there already, by key
	changes  []types.BaseVirtualDeviceConfigSpec
	keys     map[int32]int32 // of a recorded controller, to that in the specification
	disks    map[string]newDisk
	need     map[string]int64 // bytes, by datastore
	notes    []string
	nextKey  int32
	foreigns []string // keys of disks that no record has
}

// newDisk is where a disk of a new VM hangs: its key there is another one.
type newDisk struct {
	slot string
	size int64 // bytes
	was  string
}

func (h *hardware) note(format string, args ...any) {
	h.notes = append(h.notes, fmt.Sprintf(format, args...))
}

// devices makes the devices of a record anew. Keys are of the specification alone: the server gives its own.
func (h *hardware) devices(ctx context.Context, was *types.VirtualMachineConfigInfo, want []hikae.Disk) error {
	recorded := slotsByKey(was)
	controllers := map[int32]types.BaseVirtualController{}
	for _, d := range was.Hardware.Device {
		if c, ok := d.(types.BaseVirtualController); ok {
			key := c.GetVirtualController().Key
			if controllers[key] != nil {
				return fmt.Errorf("%s: two controllers have key %d", recordBlob, key)
			}
			controllers[key] = c
			h.controller(d)
		}
	}
	for _, d := range was.Hardware.Device {
		var err error
		switch d := d.(type) {
		case types.BaseVirtualController:
		case *types.VirtualDisk:
			err = h.recordedDisk(d, diskOf(d, controllers[d.ControllerKey]), want)
		case types.BaseVirtualEthernetCard:
			err = h.card(ctx, d)
		default:
			h.other(d)
		}
		if err != nil {
			return err
		}
	}
	for _, d := range want {
		if _, ok := recorded[d.Key]; !ok {
			h.foreigns = append(h.foreigns, d.Key)
			h.note("disk %s is not in the record: it hangs on a SATA controller", d.Key)
		}
	}
	return h.plainDisks(want)
}

// add puts a copy of a device among those to be made, with what only a running server knows taken out.
func (h *hardware) add(d types.BaseVirtualDevice) types.BaseVirtualDevice {
	v := reflect.New(reflect.TypeOf(d).Elem())
	v.Elem().Set(reflect.ValueOf(d).Elem())
	anew := v.Interface().(types.BaseVirtualDevice)
	base := anew.GetVirtualDevice()
	h.nextKey--
	base.Key, base.DeviceInfo, base.NumaNode, base.DeviceGroupInfo = h.nextKey, nil, nil, nil
	if c := base.Connectable; c != nil {
		base.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: c.StartConnected, AllowGuestControl: c.AllowGuestControl}
	}
	if key, ok := h.keys[base.ControllerKey]; ok {
		base.ControllerKey = key
	}
	h.changes = append(h.changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: anew})
	return anew
}

func (h *hardware) controller(d types.BaseVirtualDevice) {
	key := d.GetVirtualDevice().Key
	switch d.(type) {
	case *types.VirtualIDEController, *types.VirtualPS2Controller, *types.VirtualPCIController, *types.VirtualSIOController:
		h.keys[key] = key // every VM has them, and by the same keys
	case types.BaseVirtualSCSIController, types.BaseVirtualSATAController, *types.VirtualNVMEController, *types.VirtualUSBController, *types.VirtualUSBXHCIController:
		anew := h.add(d)
		anew.GetVirtualDevice().UnitNumber = nil
		anew.(types.BaseVirtualController).GetVirtualController().Device = nil
		h.keys[key] = anew.GetVirtualDevice().Key
	default:
		h.note("%s was left out: nothing is known of such controllers (%T)", deviceName(d), d)
	}
}

func deviceName(d types.BaseVirtualDevice) string {
	if label := labelOf(*d.GetVirtualDevice()); label != "" {
		return label
	}
	return fmt.Sprintf("device %d", d.GetVirtualDevice().Key)
}

// recordedDisk makes a disk where it hung. One that the point does not hold is made empty, or left out.
func (h *hardware) recordedDisk(v *types.VirtualDisk, was Disk, want []hikae.Disk) error {
	i := slices.IndexFunc(want, func(d hikae.Disk) bool { return d.Key == was.Key })
	if i < 0 && !h.opts.EmptyDisks {
		h.note("%s (%s, disk %s) is not in what is restored, and was left out", was.Label, was.Slot, was.Key)
		return nil
	}
	size := was.Size
	if i >= 0 {
		if size = want[i].Size; size != was.Size {
			h.note("disk %s is %d bytes in the point, and %d in the record", was.Key, size, was.Size)
		}
	} else {
		h.note("%s (%s, disk %s) is not in what is restored, and was made empty", was.Label, was.Slot, was.Key)
	}
	if _, ok := h.keys[v.ControllerKey]; !ok || v.UnitNumber == nil {
		return fmt.Errorf("%s: disk %s hangs nowhere", recordBlob, was.Key)
	}
	if size <= 0 || size > maxDiskBytes || size%1024 != 0 {
		return fmt.Errorf("%s: disk %s is of %d bytes", recordBlob, was.Key, size)
	}
	if _, twice := h.disks[was.Key]; twice {
		return fmt.Errorf("%s: disk %s is there twice", recordBlob, was.Key)
	}
	disk := h.add(&types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{ControllerKey: v.ControllerKey, UnitNumber: v.UnitNumber},
		Shares:        v.Shares, StorageIOAllocation: v.StorageIOAllocation,
	}).(*types.VirtualDisk)
	return h.backed(disk, was, size)
}

// backed gives a disk its file and its size.
func (h *hardware) backed(disk *types.VirtualDisk, was Disk, size int64) error {
	name := h.opts.DiskDatastores[was.Key]
	if name == "" {
		name = h.opts.Datastore
	}
	if name == "" {
		name = datastoreOf(was.File)
	}
	if name == "" {
		name = h.home
	}
	store, err := h.where.store(name)
	if err != nil {
		return fmt.Errorf("disk %s: %w", was.Key, err)
	}
	thin, eager := was.Thin || was.Virtual == nil, was.Eager
	if p := h.opts.Provisioning; p != AsRecorded {
		thin, eager = p == Thin, p == Eager
	}
	if !thin {
		h.need[store.Summary.Name] += size
	}
	mode := string(types.VirtualDiskModePersistent)
	if was.Virtual != nil {
		if m := modeOf(was.Virtual); independent(m) != "" {
			mode = m
		}
	}
	disk.CapacityInBytes, disk.CapacityInKB = size, size>>10
	disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[" + store.Summary.Name + "]"},
		DiskMode:                     mode, ThinProvisioned: &thin,
	}
	if !thin {
		disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).EagerlyScrub = &eager
	}
	if file := h.files[was.Key]; file != "" {
		disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName += " " + file
	} else {
		h.changes[len(h.changes)-1].GetVirtualDeviceConfigSpec().FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
	}
	h.disks[was.Key] = newDisk{slot: was.Slot, size: size, was: was.UUID}
	return nil
}

func modeOf(v *types.VirtualDisk) string {
	switch b := v.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.DiskMode
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.DiskMode
	}
	return ""
}

// card makes a network card anew. Without the old VM's identity the server chooses its hardware address.
func (h *hardware) card(ctx context.Context, d types.BaseVirtualEthernetCard) error {
	was := d.(types.BaseVirtualDevice)
	if _, ok := was.(*types.VirtualSriovEthernetCard); ok {
		h.note("%s was left out: it was a part of its host's own card (SR-IOV)", deviceName(was))
		return nil
	}
	on, err := h.nets.backing(ctx, d.GetVirtualEthernetCard())
	if errors.Is(err, errNoCard) {
		h.note("%s was left out, as asked", deviceName(was))
		return nil
	}
	if err != nil {
		return err
	}
	anew := h.add(was)
	base := anew.GetVirtualDevice()
	base.Backing, base.UnitNumber = on, nil
	card := anew.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	card.ExternalId, card.SubnetId = "", ""
	if h.opts.KeepIdentity && card.MacAddress != "" {
		card.AddressType = string(types.VirtualEthernetCardMacTypeManual)
	} else {
		card.AddressType, card.MacAddress = "", ""
	}
	return nil
}

// other makes what is neither disk, controller nor network card. What hangs on its host, or on files of the old VM, is left
// out, and drives for media come back empty.
func (h *hardware) other(d types.BaseVirtualDevice) {
	switch d := d.(type) {
	case *types.VirtualCdrom:
		h.drive(d, &types.VirtualCdromRemotePassthroughBackingInfo{})
	case *types.VirtualFloppy:
		h.drive(d, &types.VirtualFloppyRemoteDeviceBackingInfo{})
	case *types.VirtualSerialPort:
		h.serial(d)
	case types.BaseVirtualSoundCard:
		h.add(d.(types.BaseVirtualDevice)).GetVirtualDevice().UnitNumber = nil
	case *types.VirtualWDT, *types.VirtualPrecisionClock:
		h.add(d).GetVirtualDevice().UnitNumber = nil
	case *types.VirtualMachineVMCIDevice, *types.VirtualKeyboard, *types.VirtualPointingDevice, *types.VirtualMachineVideoCard:
		// every VM has one
	case *types.VirtualTPM:
		h.note("%s was left out: what it kept is bound to the old VM; a guest whose disks it unlocked asks for their recovery keys", deviceName(d))
	default:
		h.note("%s was left out: it was a device of its host, or one that is not understood (%T)", deviceName(d), d)
	}
}

func (h *hardware) drive(d types.BaseVirtualDevice, empty types.BaseVirtualDeviceBackingInfo) {
	if f, ok := d.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo); ok && f.GetVirtualDeviceFileBackingInfo().FileName != "" {
		h.note("%s is empty; %s was in it", deviceName(d), f.GetVirtualDeviceFileBackingInfo().FileName)
	}
	base := h.add(d).GetVirtualDevice()
	base.Backing = empty
	base.Connectable = &types.VirtualDeviceConnectInfo{AllowGuestControl: true}
}

func (h *hardware) serial(d *types.VirtualSerialPort) {
	switch d.Backing.(type) {
	case *types.VirtualSerialPortURIBackingInfo, *types.VirtualSerialPortPipeBackingInfo, *types.VirtualSerialPortThinPrintBackingInfo:
		h.add(d)
	default:
		h.note("%s was left out: it led to a device of its host, or to a file of the old VM", deviceName(d))
	}
}
