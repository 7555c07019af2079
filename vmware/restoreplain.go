package vmware

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

const (
	sataPorts    = 30
	maxSATA      = 4 // controllers of one VM
	plainCPUs    = 2
	plainMemory  = 4096 // MiB
	plainGuest   = "otherGuest64"
	firmwareBlob = "firmware/" // where another provider keeps variables of a firmware
)

// plainSpec is the configuration of a machine that no vSphere recorded.
func plainSpec(vm hikae.VM, o PlainHardware) (types.VirtualMachineConfigSpec, []string) {
	firmware := o.Firmware
	if firmware == "" {
		firmware = "bios"
		for name := range vm.Config {
			if strings.HasPrefix(name, firmwareBlob) {
				firmware = "efi"
			}
		}
	}
	spec := types.VirtualMachineConfigSpec{
		NumCPUs: cmp.Or(o.CPUs, plainCPUs), MemoryMB: cmp.Or(o.MemoryMB, plainMemory),
		GuestId: cmp.Or(o.GuestID, plainGuest), Firmware: firmware,
	}
	return spec, []string{fmt.Sprintf(
		"no vSphere recorded this machine (%s): it was made with %d processors, %d MiB of memory, firmware %s, as guest %s, its disks on SATA; look at it before you start it",
		cmp.Or(vm.Facts["hypervisor"], "its hypervisor is not known"), spec.NumCPUs, spec.MemoryMB, spec.Firmware, spec.GuestId)}
}

// plain makes the devices of a machine without a record.
func (h *hardware) plain(ctx context.Context, vm hikae.VM) error {
	for _, d := range vm.Disks {
		h.foreigns = append(h.foreigns, d.Key)
	}
	if err := h.plainDisks(vm.Disks); err != nil {
		return err
	}
	name := h.opts.Plain.Network
	if name == "" {
		h.note("it has no network card: no network was named")
		return nil
	}
	s, err := h.where.in.pick("network", h.nets.there, name)
	if err != nil {
		return err
	}
	on, err := h.nets.hang(ctx, s)
	if err != nil {
		return err
	}
	card := &types.VirtualE1000e{}
	card.ControllerKey = pciKey
	card.Backing = on
	card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true}
	h.add(card)
	return nil
}

const pciKey = 100 // of the PCI controller that every VM has

// plainDisks hangs disks without a record on SATA: every guest of this century has a driver for it in what it boots from.
func (h *hardware) plainDisks(want []hikae.Disk) error {
	if len(h.foreigns) == 0 {
		return nil
	}
	bus := h.freeSATA()
	if len(h.foreigns) > (maxSATA-bus)*sataPorts {
		return fmt.Errorf("%d disks are more than can hang on SATA: %w", len(h.foreigns), fs.ErrInvalid)
	}
	sizes := map[string]int64{}
	for _, d := range want {
		sizes[d.Key] = d.Size
	}
	var key int32
	for i, disk := range h.foreigns {
		unit := int32(i % sataPorts)
		if unit == 0 {
			c := &types.VirtualAHCIController{}
			c.ControllerKey, c.BusNumber = pciKey, int32(bus)
			key = h.add(c).GetVirtualDevice().Key
			bus++
		}
		v := h.add(&types.VirtualDisk{VirtualDevice: types.VirtualDevice{ControllerKey: key, UnitNumber: &unit}}).(*types.VirtualDisk)
		was := Disk{Slot: fmt.Sprintf("sata%d:%d", bus-1, unit)}
		was.Key = disk
		if err := h.backed(v, was, sizes[disk]); err != nil {
			return err
		}
	}
	return nil
}

// freeSATA is the first number above all SATA controllers there are to be.
func (h *hardware) freeSATA() int {
	free := 0
	for _, c := range h.changes {
		if s, ok := c.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualSATAController); ok {
			free = max(free, int(s.GetVirtualSATAController().BusNumber)+1)
		}
	}
	return free
}
