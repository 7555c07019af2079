package vmwaretest

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// guestView is what the Linux of a VM shows of its machine: an identity and disks.
type guestView struct {
	uuid    string // the machine's, as vSphere has it
	swapped bool   // product_uuid has its first three fields the other way round
	named   bool   // disk.EnableUUID: disks tell who they are
	buses   []guestBus
	disks   []*guestDisk
}

// guestBus is a SCSI controller.
type guestBus struct {
	host   int // scsi host number in the guest
	bus    int32
	driver string // vmw_pvscsi, mptspi …
}

// guestDisk is a disk as the guest has it.
type guestDisk struct {
	name   string // sda …
	host   int
	target int32
	uuid   string
	size   int64
	file   string // on the datastore
	write  bool   // what is written stays

	key        int32  // of the virtual device
	attachment uint64 // another number each time that a disk comes
}

// entry is one name in the guest's tree: a folder, a text, a link, the file that asks for a scan, or a disk.
type entry struct {
	kind   entryKind
	text   string // or where a link leads
	disk   *guestDisk
	within []string // names in a folder, in order
}

type entryKind int

const (
	entryDir entryKind = iota
	entryText
	entryLink
	entryScan
	entryDisk
)

// tree lays the view out by paths without a leading slash; "" is the root.
func (v *guestView) tree() map[string]*entry {
	t := map[string]*entry{"": {}}
	put := func(name string, e *entry) {
		for child := name; ; child = path.Dir(child) {
			dir := path.Dir(child)
			if dir == "." {
				dir = ""
			}
			folder := t[dir]
			if folder == nil {
				folder = &entry{}
				t[dir] = folder
			}
			if base := path.Base(child); !slices.Contains(folder.within, base) {
				folder.within = append(folder.within, base)
			}
			if dir == "" {
				break
			}
		}
		t[name] = e
	}
	text := func(name, s string) { put(name, &entry{kind: entryText, text: s + "\n"}) }
	link := func(name, to string) { put(name, &entry{kind: entryLink, text: to}) }
	dir := func(name string) { put(name, &entry{}) }

	v.identity(text)
	for _, d := range []string{"sys/class/scsi_host", "sys/class/scsi_disk", "sys/block", "dev/disk/by-id", "dev/disk/by-path"} {
		dir(d)
	}
	for _, ata := range []int{0, 1} {
		text(fmt.Sprintf("sys/class/scsi_host/host%d/proc_name", ata), "ata_piix")
	}
	for _, b := range v.buses {
		at := fmt.Sprintf("sys/class/scsi_host/host%d/", b.host)
		text(at+"proc_name", b.driver)
		put(at+"scan", &entry{kind: entryScan})
	}
	for i, d := range v.disks {
		d.lay(i, v.named, put, text, link)
	}
	for _, e := range t {
		slices.Sort(e.within)
	}
	return t
}

// identity is what firmware tells of the machine. The serial has the bytes of the UUID in vSphere's order; the UUID itself is
// shown with its first three fields swapped where firmware is newer (SMBIOS 2.6 and later say little-endian).
func (v *guestView) identity(text func(name, s string)) {
	const at = "sys/class/dmi/id/"
	text(at+"sys_vendor", "VMware, Inc.")
	text(at+"product_name", "VMware7,1")
	raw, err := hex.DecodeString(strings.ReplaceAll(v.uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return
	}
	var pairs []string
	for _, b := range raw {
		pairs = append(pairs, fmt.Sprintf("%02x", b))
	}
	text(at+"product_serial", "VMware-"+strings.Join(pairs[:8], " ")+"-"+strings.Join(pairs[8:], " "))
	shown := slices.Clone(raw)
	if v.swapped {
		slices.Reverse(shown[0:4])
		slices.Reverse(shown[4:6])
		slices.Reverse(shown[6:8])
	}
	text(at+"product_uuid", fmt.Sprintf("%x-%x-%x-%x-%x", shown[:4], shown[4:6], shown[6:8], shown[8:10], shown[10:]))
}

// lay puts one disk in the tree: its device, its entries of sysfs, and its names where it tells who it is.
func (d *guestDisk) lay(i int, named bool, put func(string, *entry), text, link func(string, string)) {
	address := fmt.Sprintf("%d:0:%d:0", d.host, d.target)
	put("dev/"+d.name, &entry{kind: entryDisk, disk: d})

	block := "sys/block/" + d.name + "/"
	text(block+"size", fmt.Sprint(d.size/512))
	text(block+"dev", fmt.Sprintf("8:%d", 16*i))
	text(block+"ro", "0")
	text(block+"queue/logical_block_size", "512")
	text(block+"device/vendor", "VMware  ")
	text(block+"device/model", "Virtual disk    ")
	text(block+"device/state", "running")
	put(block+"device/delete", &entry{kind: entryScan})

	scsi := "sys/class/scsi_disk/" + address + "/"
	text(scsi+"device/vendor", "VMware  ")
	text(scsi+"device/model", "Virtual disk    ")
	link(scsi+"device/block/"+d.name, "../../../../../block/"+d.name)
	link(fmt.Sprintf("dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:%d:0", d.target), "../../"+d.name)
	if !named || d.uuid == "" {
		return
	}
	id := strings.ToLower(strings.ReplaceAll(d.uuid, "-", ""))
	text(block+"device/wwid", "naa."+id)
	text(scsi+"device/wwid", "naa."+id)
	link("dev/disk/by-id/wwn-0x"+id, "../../"+d.name)
	link("dev/disk/by-id/scsi-3"+id, "../../"+d.name)
}

// deviceName is the name of the n-th disk: sda … sdz, sdaa …
func deviceName(n int) string {
	name := ""
	for n++; n > 0; n = (n - 1) / 26 {
		name = string(rune('a'+(n-1)%26)) + name
	}
	return "sd" + name
}

// viewOf is what the guest of a VM sees of its machine now.
func (s *Server) viewOf(ref types.ManagedObjectReference) *guestView {
	view := &guestView{}
	v := s.VMByRef(ref)
	if v == nil || v.sim() == nil {
		return view
	}
	vm := v.sim()
	var devices []types.BaseVirtualDevice
	s.context().WithLock(vm, func() {
		devices, view.uuid = vm.Config.Hardware.Device, vm.Config.Uuid
		for _, o := range vm.Config.ExtraConfig {
			if o := o.GetOptionValue(); strings.EqualFold(o.Key, "disk.EnableUUID") {
				view.named = strings.EqualFold(fmt.Sprint(o.Value), "true")
			}
		}
		if f := vm.Config.Flags.DiskUuidEnabled; f != nil && *f {
			view.named = true
		}
	})
	hosts := map[int32]int{}
	for _, d := range devices {
		c, ok := d.(types.BaseVirtualSCSIController)
		if !ok {
			continue
		}
		on := c.GetVirtualSCSIController()
		b := guestBus{host: 2 + len(hosts), bus: on.BusNumber, driver: driverOf(d)}
		hosts[on.Key] = b.host
		view.buses = append(view.buses, b)
	}
	for _, d := range devices {
		disk, ok := d.(*types.VirtualDisk)
		host, known := hosts[d.GetVirtualDevice().ControllerKey]
		if !ok || !known || disk.UnitNumber == nil {
			continue
		}
		g := &guestDisk{host: host, target: *disk.UnitNumber, size: disk.CapacityInBytes, file: fileOf(disk), key: disk.Key}
		if b, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			g.uuid, g.write = b.Uuid, writes(b.DiskMode)
		}
		view.disks = append(view.disks, g)
	}
	return view
}

// driverOf is what Linux calls the driver of a controller.
func driverOf(d types.BaseVirtualDevice) string {
	switch d.(type) {
	case *types.ParaVirtualSCSIController:
		return "vmw_pvscsi"
	case *types.VirtualLsiLogicSASController:
		return "mptsas"
	case *types.VirtualBusLogicController:
		return "BusLogic"
	}
	return "mptspi"
}
