package vmware

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// newInstance is a random UUID.
func newInstance() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// reconfigure changes a VM and waits for it. The call itself is never cut short: one that arrives late would change a VM that
// others have gone on with.
func (c *Client) reconfigure(ctx context.Context, vm types.ManagedObjectReference, spec types.VirtualMachineConfigSpec) error {
	res, err := methods.ReconfigVM_Task(context.WithoutCancel(ctx), c.vim, &types.ReconfigVM_Task{This: vm, Spec: spec})
	if err != nil {
		return err
	}
	_, err = c.Wait(ctx, res.Returnval)
	return err
}

func (r *Restorer) powerOn(ctx context.Context, vm types.ManagedObjectReference, name string) error {
	res, err := methods.PowerOnVM_Task(ctx, r.client.vim, &types.PowerOnVM_Task{This: vm})
	if err == nil {
		_, err = r.client.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return &PowerOnError{VM: name, Err: err}
	}
	return nil
}

// keepDiskIDs gives the disks the UUIDs that they had, which is what a guest sees as their serial numbers, and what the next
// backup knows them by.
func (d *newVM) keepDiskIDs(ctx context.Context) {
	c := d.restorer.client
	for _, want := range d.vm.Disks {
		to, was := d.disks[want.Key], d.hardware.disks[want.Key].was
		if was == "" {
			continue
		}
		_, err := methods.SetVirtualDiskUuid(ctx, c.vim, &types.SetVirtualDiskUuid{
			This: *c.vim.ServiceContent.VirtualDiskManager, Name: to.File, Datacenter: &d.where.datacenter.ref, Uuid: was,
		})
		if err != nil {
			d.notes = append(d.notes, fmt.Sprintf("disk %s has another UUID than it had: %v", want.Key, err))
		}
	}
}

const nvramTimeout = 2 * time.Minute

// putNVRAM puts the firmware's variables where the new VM looks for them. A VM starts without them too, from the default
// place on its disk.
func (d *newVM) putNVRAM(ctx context.Context, content []byte) {
	ctx, cancel := context.WithTimeout(ctx, nvramTimeout)
	defer cancel()
	err := d.writeNVRAM(ctx, content)
	if err != nil {
		d.notes = append(d.notes, fmt.Sprintf("the firmware's variables (boot entries, keys of secure boot) were not put back: %v", err))
	}
}

func (d *newVM) writeNVRAM(ctx context.Context, content []byte) error {
	c := d.restorer.client
	all, err := storesOf(ctx, c, d.ref)
	if err != nil {
		return err
	}
	vmx, err := all.find(d.machine.Config.Files.VmPathName)
	if err != nil {
		return err
	}
	name := configName(d.name, nvramEnding)
	at, err := vmx.below(path.Join(path.Dir(vmx.file), name))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, fileURL(c, at).String(), bytes.NewReader(content))
	if err != nil {
		return err
	}
	res, err := plain(c.HTTP()).Do(req)
	if err != nil {
		return unwrapURL(err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	if !slices.Contains([]int{http.StatusOK, http.StatusCreated, http.StatusNoContent}, res.StatusCode) {
		return &StatusError{http.MethodPut, at.String(), res.StatusCode}
	}
	return c.reconfigure(ctx, d.ref, types.VirtualMachineConfigSpec{
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "nvram", Value: name}},
	})
}

// trimmings are the video card and the boot order: they name devices by the keys that the server gave.
func (d *newVM) trimmings() (spec types.VirtualMachineConfigSpec, any bool) {
	if video := d.video(); video != nil {
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: video,
		})
		any = true
	}
	if d.was.BootOptions == nil {
		return spec, any
	}
	var order []types.BaseVirtualMachineBootOptionsBootableDevice
	for _, b := range d.was.BootOptions.BootOrder {
		if b := d.bootable(b); b != nil {
			order = append(order, b)
		}
	}
	if len(order) > 0 {
		spec.BootOptions, any = &types.VirtualMachineBootOptions{BootOrder: order}, true
	}
	return spec, any
}

// video is the new VM's video card as the old one's was, nil where there is nothing to change.
func (d *newVM) video() *types.VirtualMachineVideoCard {
	was, is := videoOf(d.was), videoOf(d.machine.Config)
	if was == nil || is == nil {
		return nil
	}
	same := is.VideoRamSizeInKB == was.VideoRamSizeInKB && is.NumDisplays == was.NumDisplays && isTrue(is.UseAutoDetect) == isTrue(was.UseAutoDetect) &&
		isTrue(is.Enable3DSupport) == isTrue(was.Enable3DSupport) && is.Use3dRenderer == was.Use3dRenderer && is.GraphicsMemorySizeInKB == was.GraphicsMemorySizeInKB
	if same {
		return nil
	}
	v := *was
	v.VirtualDevice = is.VirtualDevice
	return &v
}

func videoOf(config *types.VirtualMachineConfigInfo) *types.VirtualMachineVideoCard {
	for _, dev := range config.Hardware.Device {
		if v, ok := dev.(*types.VirtualMachineVideoCard); ok {
			return v
		}
	}
	return nil
}

// bootable is an entry of the recorded order, with the key that the device has now; nil where it is not there any more.
func (d *newVM) bootable(b types.BaseVirtualMachineBootOptionsBootableDevice) types.BaseVirtualMachineBootOptionsBootableDevice {
	switch b := b.(type) {
	case *types.VirtualMachineBootOptionsBootableDiskDevice:
		for _, was := range DisksOf(d.was) {
			if now := d.disks[was.Key]; was.Device == b.DeviceKey && now != nil {
				return &types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: now.Device}
			}
		}
	case *types.VirtualMachineBootOptionsBootableEthernetDevice:
		was, now := cardKeys(d.was), cardKeys(d.machine.Config)
		if i := slices.Index(was, b.DeviceKey); i >= 0 && len(was) == len(now) {
			return &types.VirtualMachineBootOptionsBootableEthernetDevice{DeviceKey: now[i]}
		}
	case *types.VirtualMachineBootOptionsBootableCdromDevice, *types.VirtualMachineBootOptionsBootableFloppyDevice:
		return b
	}
	return nil
}

func cardKeys(config *types.VirtualMachineConfigInfo) (keys []int32) {
	for _, dev := range config.Hardware.Device {
		if c, ok := dev.(types.BaseVirtualEthernetCard); ok {
			keys = append(keys, c.GetVirtualEthernetCard().Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// disksNamed are disks as an error lists them.
func disksNamed(disks []Disk) (out []string) {
	for _, d := range disks {
		out = append(out, fmt.Sprintf("%s (%s, %d bytes)", d.Key, d.Slot, d.Size))
	}
	return out
}

var _ hikae.Draft = (*newVM)(nil)
