package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// VM is one that a host is given.
type VM struct {
	ID         string // a GUID. Empty: one is made
	Name       string
	Generation int    // zero: 2, and 1 before 2012 R2
	Version    string // of its configuration. Empty: what the host's generation gives; 9.0 where none was chosen
	State      uint16 // EnabledState. Zero: 2, running
	Disks      []Disk

	GuestOS string // windows or linux. Empty: windows
	Folder  string // of its files. Empty: C:\VMs\ and its name
	// NoIntegration has no integration services in the guest: it cannot be quiesced.
	NoIntegration bool
	TPM           bool // it has a virtual one
	Shielded      bool
	Notes         []string
	VLAN          uint16 // of its network card. Zero: none
}

// Disk is one of a VM. Where it is a file that does not exist for the host, Size is zero and asking for it fails.
type Disk struct {
	Path     string // of the file; for a physical disk the device's. Empty: disk_N.vhdx in the VM's folder
	Size     int64  // bytes
	ID       string // VirtualDiskId. Empty: one is made
	IDE      bool   // else SCSI
	Bus      int    // of controllers of its kind
	Slot     int    // one that is taken: the next that is not
	Physical bool
	DVD      bool

	Format     string // vhdx or vhd. Empty: by the ending of Path; else vhdx
	Fixed      bool
	BlockSize  int64 // zero: 32 MiB, of a VHD 2 MiB
	SectorSize int64 // zero: 512
	Shared     bool  // several VMs may have it at once
}

// AddVM adds one with its files, and returns its GUID. What cannot be made is a test's mistake: it panics.
func (h *Host) AddVM(v VM) string {
	h.Lock()
	defer h.Unlock()
	if err := h.addVM(&v); err != nil {
		panic("hypervtest: " + err.Error())
	}
	return v.ID
}

func (h *Host) addVM(v *VM) error {
	h.defaults(v)
	g := &Guest{h: h, id: strings.ToLower(v.ID), name: v.Name, os: v.GuestOS, folder: v.Folder, secret: newGUID(), integration: !v.NoIntegration, on: v.State == 2}
	g.object = h.Add(V2, NewObject("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", v.ID, "ElementName", v.Name,
		"Caption", "Virtual Machine", "EnabledState", v.State, "OperationalStatus", []uint16{2}, "ProcessID", nil,
		"InstallDate", time.Date(2025, 5, 6, 7, 8, 9, 0, time.UTC), "TimeOfLastStateChange", time.Date(2025, 5, 6, 7, 8, 10, 0, time.UTC)))
	for i := range v.Disks {
		if err := h.makeDisk(v, &v.Disks[i], i); err != nil {
			return err
		}
	}
	g.set = h.settings(*v, "Microsoft:"+v.ID, typeRealized)
	h.Add(V2, NewObject("Msvm_SettingsDefineState", "ManagedElement", g.object, "SettingData", g.set))
	h.enrol(g)
	if err := g.attachDrives(); err != nil {
		return err
	}
	return g.saveConfig()
}

// enrol makes a VM one of the host's.
func (h *Host) enrol(g *Guest) {
	h.guests[g.id] = g
	h.places.Lock()
	defer h.places.Unlock()
	h.ordered = append(h.ordered[:len(h.ordered):len(h.ordered)], g)
}

func (h *Host) defaults(v *VM) {
	h.made++
	if v.ID == "" {
		v.ID = guid("A0A", h.made)
	}
	if v.State == 0 {
		v.State = 2
	}
	if v.Generation == 0 {
		if v.Generation = 2; !h.gen.since("2012r2") {
			v.Generation = 1
		}
	}
	if v.Version == "" {
		v.Version = h.gen.config
	}
	if v.GuestOS == "" {
		v.GuestOS = "windows"
	}
	if v.Folder == "" {
		v.Folder = `C:\VMs\` + fileName(v.Name, v.ID)
	}
}

// fileName is a name as a folder can have it.
func fileName(name, id string) string {
	ok := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`\/:*?"<>|`, r) || r < ' ' {
			return '_'
		}
		return r
	}, name)
	if ok = strings.Trim(ok, ". "); ok == "" || len(ok) > 100 {
		return id
	}
	return ok
}

// makeDisk makes a disk's file where it is to have one and there is none.
func (h *Host) makeDisk(v *VM, d *Disk, n int) error {
	if d.Physical || d.DVD {
		return nil
	}
	if d.Format == "" {
		if d.Format = "vhdx"; strings.HasSuffix(strings.ToLower(d.Path), "vhd") || d.Path == "" && !h.gen.since("2012") {
			d.Format = "vhd"
		}
	}
	if d.Path == "" {
		d.Path = fmt.Sprintf(`%s\disk_%d.%s`, v.Folder, n+1, d.Format)
	}
	if d.Size == 0 || h.exists(d.Path) {
		return nil
	}
	return h.newDisk(d)
}

// newDisk makes an empty disk's file.
func (h *Host) newDisk(d *Disk) error {
	path, err := h.volumePath(d.Path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	o := &vhdx.CreateOptions{BlockSize: d.BlockSize, SectorSize: d.SectorSize}
	if d.Fixed {
		o.Type = vhdx.Fixed
	}
	if d.ID != "" {
		if o.DiskID, err = vhdx.ParseGUID(d.ID); err != nil {
			return err
		}
	}
	var t pipe.Target
	if d.Format == "vhd" {
		t, err = vhdx.CreateVHD(context.Background(), path, d.Size, o)
	} else {
		t, err = vhdx.Create(context.Background(), path, d.Size, o)
	}
	if err != nil {
		return err
	}
	return errors.Join(t.Commit(context.Background()), os.Chmod(path, 0o644))
}

// settings are the present state of a VM.
func (h *Host) settings(v VM, instance, kind string) *Object {
	id := strings.TrimPrefix(instance, "Microsoft:")
	set := h.Add(V2, NewObject("Msvm_VirtualSystemSettingData", "InstanceID", instance, "ElementName", v.Name, "VirtualSystemType", kind,
		"VirtualSystemIdentifier", v.ID, "Version", v.Version, "ConfigurationDataRoot", v.Folder, "ConfigurationID", id,
		"ConfigurationFile", `Virtual Machines\`+id+h.configEnding(), "SnapshotDataRoot", v.Folder, "SuspendDataRoot", v.Folder, "SwapFileDataRoot", v.Folder,
		"CreationTime", time.Date(2025, 5, 6, 7, 8, 9, 0, time.UTC), "Notes", append([]string{}, v.Notes...), "Parent", nil,
		"AutomaticStartupAction", uint16(2), "AutomaticShutdownAction", uint16(4), "BIOSNumLock", false))
	if v.Generation == 1 {
		set.Set("BootOrder", []uint16{1, 2, 3, 0})
	}
	if h.gen.since("2012r2") {
		set.Set("VirtualSystemSubType", fmt.Sprintf("Microsoft:Hyper-V:SubType:%d", v.Generation))
		set.Set("IncrementalBackupEnabled", false)
		set.Set("SecureBootEnabled", v.Generation == 2)
	}
	if h.gen.since("2016") {
		set.Set("UserSnapshotType", uint16(3))
		set.Set("GuestStateFile", `Virtual Machines\`+id+".vmgs")
		h.part(set, NewObject("Msvm_SecuritySettingData", "InstanceID", instance+`\Security`, "ElementName", "Security Settings", "TpmEnabled", v.TPM,
			"KsdEnabled", false, "ShieldingRequested", v.Shielded, "EncryptStateAndVmMigrationTraffic", v.Shielded,
			"VirtualizationBasedSecurityOptOut", false, "BindToHostTpm", false))
	}
	h.part(set, NewObject("Msvm_MemorySettingData", "InstanceID", instance+`\4764334D-E001-4176-82EE-5594EC9B530E`, "ResourceType", uint16(4),
		"ResourceSubType", "Microsoft:Hyper-V:Memory", "VirtualQuantity", uint64(2048), "Reservation", uint64(2048), "Limit", uint64(1<<20), "DynamicMemoryEnabled", false,
		"AllocationUnits", "byte * 2^20", "Weight", uint32(5000), "Parent", nil))
	h.part(set, NewObject("Msvm_ProcessorSettingData", "InstanceID", instance+`\B637F346-6A0E-4DEC-AF52-BD70CB80A21D\0`, "ResourceType", uint16(3),
		"ResourceSubType", "Microsoft:Hyper-V:Processor", "VirtualQuantity", uint64(2), "Limit", uint64(100000), "Weight", uint32(100), "Parent", nil))
	h.network(set, instance, v.VLAN)
	state := uint16(2)
	if v.NoIntegration {
		state = 3
	}
	h.part(set, NewObject("Msvm_VssComponentSettingData", "InstanceID", instance+`\5CED1297-4598-4915-A5FC-AD21BB4D02A4`, "ElementName", "VSS", "EnabledState", state))
	controllers, taken := map[string]*Object{}, map[string]bool{}
	for i := range v.Disks {
		h.attach(set, instance, v.Disks[i], controllers, taken)
	}
	return set
}

// network is one adapter on the switch.
func (h *Host) network(set *Object, instance string, vlan uint16) {
	card := instance + `\6D2F9A10-0000-4000-8000-0000000000E1`
	port := h.part(set, NewObject("Msvm_SyntheticEthernetPortSettingData", "InstanceID", card, "ElementName", "Network Adapter", "ResourceType", uint16(10),
		"ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port", "Address", fmt.Sprintf("00155D%06X", h.made), "StaticMacAddress", false, "Parent", nil))
	connection := h.part(set, NewObject(classConnection, "InstanceID", card+`\C`, "ElementName", "Dynamic Ethernet Switch Port", "ResourceType", uint16(33),
		"ResourceSubType", "Microsoft:Hyper-V:Ethernet Connection", "Parent", h.Path(h.opts.Name, port), "EnabledState", uint16(2),
		"HostResource", []string{`\\` + h.opts.Name + `\root\virtualization\v2:Msvm_VirtualEthernetSwitch.CreationClassName="Msvm_VirtualEthernetSwitch",Name="C5E0A1B2-0000-4000-8000-00000000E700"`}))
	if vlan != 0 {
		h.tag(connection, vlan)
	}
}

// part adds a part to settings.
func (h *Host) part(set, o *Object) *Object {
	h.Add(V2, o)
	h.Add(V2, NewObject("Msvm_VirtualSystemSettingDataComponent", "GroupComponent", set, "PartComponent", o))
	return o
}

// attach makes a controller where there is none yet, a drive, and what is in it.
func (h *Host) attach(set *Object, instance string, d Disk, controllers map[string]*Object, taken map[string]bool) {
	sub, kind := "Microsoft:Hyper-V:Synthetic SCSI Controller", uint16(6)
	if d.IDE {
		sub, kind = "Microsoft:Hyper-V:Emulated IDE Controller", 5
	}
	name := fmt.Sprintf(`%s\%d%d`, instance, kind, d.Bus)
	if controllers[name] == nil {
		var address any = ""
		if d.IDE {
			address = strconv.Itoa(d.Bus)
		}
		controllers[name] = h.part(set, NewObject("Msvm_ResourceAllocationSettingData", "InstanceID", name, "ResourceType", kind, "ResourceSubType", sub,
			"Address", address, "AddressOnParent", nil, "Parent", nil, "HostResource", nil))
	}
	for taken[fmt.Sprintf(`%s\%d`, name, d.Slot)] {
		d.Slot++
	}
	drive := fmt.Sprintf(`%s\%d`, name, d.Slot)
	taken[drive] = true
	at := []any{"InstanceID", drive + `\D`, "Parent", h.Path(h.opts.Name, controllers[name]), "AddressOnParent", strconv.Itoa(d.Slot), "Address", ""}
	if d.Physical {
		h.part(set, NewObject("Msvm_ResourceAllocationSettingData", append(at, "ResourceType", uint16(17), "ResourceSubType", subPhysical,
			"HostResource", []string{d.Path})...))
		return
	}
	subs := [2]string{"Microsoft:Hyper-V:Synthetic Disk Drive", subDisk}
	if d.DVD {
		subs = [2]string{"Microsoft:Hyper-V:Synthetic DVD Drive", "Microsoft:Hyper-V:Virtual CD/DVD Disk"}
	}
	in := h.part(set, NewObject("Msvm_ResourceAllocationSettingData", append(at, "ResourceType", uint16(17), "ResourceSubType", subs[0], "HostResource", nil)...))
	file := h.part(set, NewObject("Msvm_StorageAllocationSettingData", "InstanceID", drive+`\L`, "ResourceType", uint16(31), "ResourceSubType", subs[1],
		"Parent", h.Path(h.opts.Name, in), "HostResource", []string{d.Path}))
	if h.gen.since("2012r2") && !d.DVD {
		file.Set("PersistentReservationsSupported", d.Shared)
	}
}

const (
	subDisk     = "Microsoft:Hyper-V:Virtual Hard Disk"
	subPhysical = "Microsoft:Hyper-V:Physical Disk Drive"
)

// parts are what belongs to settings.
func (h *Host) parts(set *Object) (list []*Object) {
	for _, o := range h.objects {
		if o.Class == "Msvm_VirtualSystemSettingDataComponent" && o.Values["GroupComponent"] == any(set) {
			list = append(list, o.Values["PartComponent"].(*Object))
		}
	}
	return list
}

// attachDrives makes drives of the disk files that the settings name and that exist.
func (g *Guest) attachDrives() error {
	for _, o := range g.h.parts(g.set) {
		if sub, _ := o.text("ResourceSubType"); o.Class != "Msvm_StorageAllocationSettingData" || sub != subDisk {
			continue
		}
		name := firstOf(o.Values["HostResource"])
		if name == "" || !g.h.exists(name) {
			continue
		}
		d, err := g.adopt(o, name)
		if err != nil {
			return err
		}
		g.drives = append(g.drives, d)
	}
	return nil
}

func firstOf(v any) string {
	switch v := v.(type) {
	case []string:
		if len(v) > 0 {
			return v[0]
		}
	case string:
		return v
	}
	return ""
}
