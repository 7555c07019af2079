package hypervtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Namespaces.
const (
	V2    = "root/virtualization/v2"
	CIMV2 = "root/cimv2"
)

// VM is one that a host is given.
type VM struct {
	ID         string // a GUID. Empty: one is made
	Name       string
	Generation int    // zero: 2
	Version    string // of its configuration. Empty: 9.0
	State      uint16 // EnabledState. Zero: 2, running
	Disks      []Disk
}

// Disk is one of a VM. Where it is a file that does not exist for the host, Size is zero and asking for it fails.
type Disk struct {
	Path     string // of the file; for a physical disk the device's
	Size     int64  // bytes
	ID       string // VirtualDiskId. Empty: the host does not tell it
	IDE      bool   // else SCSI
	Bus      int    // of controllers of its kind
	Slot     int
	Physical bool
	DVD      bool
}

type disk struct{ Disk }

// seed makes the classes, the machine and its services.
func (h *Host) seed() {
	s := &h.Store
	service := []string{"SystemCreationClassName", "SystemName", "CreationClassName", "Name"}
	for _, c := range []Class{
		{Name: "CIM_ComputerSystem", Keys: []string{"CreationClassName", "Name"}},
		{Name: "Msvm_ComputerSystem", Super: "CIM_ComputerSystem"},
		{Name: "Msvm_VirtualSystemSettingData", Keys: []string{"InstanceID"}},
		{Name: "CIM_ResourceAllocationSettingData", Keys: []string{"InstanceID"}},
		{Name: "Msvm_ResourceAllocationSettingData", Super: "CIM_ResourceAllocationSettingData"},
		{Name: "Msvm_StorageAllocationSettingData", Super: "CIM_ResourceAllocationSettingData"},
		{Name: "CIM_ConcreteJob", Keys: []string{"InstanceID"}},
		{Name: "Msvm_ConcreteJob", Super: "CIM_ConcreteJob", Methods: map[string]Method{"GetErrorEx": errorsOf}},
		{Name: "Msvm_VirtualSystemManagementService", Keys: service},
		{Name: "Msvm_VirtualSystemSnapshotService", Keys: service, Methods: map[string]Method{"CreateSnapshot": createSnapshot, "DestroySnapshot": destroySnapshot}},
		{Name: "Msvm_ImageManagementService", Keys: service, Methods: map[string]Method{"GetVirtualHardDiskSettingData": diskSettings}},
		{Name: "Msvm_SettingsDefineState", Keys: []string{"ManagedElement", "SettingData"}, Association: true},
		{Name: "Msvm_SnapshotOfVirtualSystem", Keys: []string{"Antecedent", "Dependent"}, Association: true},
		{Name: "Msvm_VirtualSystemSettingDataComponent", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
	} {
		s.Define(V2, c)
	}
	s.Define(CIMV2, Class{Name: "Win32_OperatingSystem", Keys: []string{"Name"}})
	h.machine = s.Add(V2, NewObject("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", h.opts.Name,
		"ElementName", h.opts.Name, "Caption", "Hosting Computer System", "EnabledState", uint16(2), "OperationalStatus", []uint16{2},
		"InstallDate", time.Date(2024, 2, 1, 10, 0, 0, 0, time.UTC)))
	s.Add(CIMV2, NewObject("Win32_OperatingSystem", "Name", `Microsoft Windows Server 2022|C:\Windows|\Device\Harddisk0\Partition3`,
		"Caption", "Microsoft Windows Server 2022 Datacenter", "Version", "10.0.20348", "BuildNumber", "20348",
		"LastBootUpTime", time.Date(2026, 3, 1, 6, 0, 0, 500000000, time.UTC), "FreePhysicalMemory", uint64(1<<33)))
	for _, name := range []string{"Msvm_VirtualSystemManagementService", "Msvm_VirtualSystemSnapshotService", "Msvm_ImageManagementService"} {
		h.services[name] = s.Add(V2, NewObject(name, "SystemCreationClassName", "Msvm_ComputerSystem", "SystemName", h.opts.Name,
			"CreationClassName", name, "Name", "vmms"))
	}
}

// AddVM adds one, and returns its GUID.
func (h *Host) AddVM(v VM) string {
	h.Lock()
	defer h.Unlock()
	h.made++
	if v.ID == "" {
		v.ID = guid("A0A", h.made)
	}
	if v.State == 0 {
		v.State = 2
	}
	vm := h.Add(V2, NewObject("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", v.ID, "ElementName", v.Name,
		"Caption", "Virtual Machine", "EnabledState", v.State, "OperationalStatus", []uint16{2}, "ProcessID", nil,
		"InstallDate", time.Date(2025, 5, 6, 7, 8, 9, 0, time.UTC)))
	set := h.settings(vm, v, "Microsoft:"+v.ID, "Microsoft:Hyper-V:System:Realized", v.Name)
	h.Add(V2, NewObject("Msvm_SettingsDefineState", "ManagedElement", vm, "SettingData", set))
	return v.ID
}

// settings are one state of a VM: its present one or a checkpoint's.
func (h *Host) settings(vm *Object, v VM, instance, kind, name string) *Object {
	if v.Generation == 0 {
		v.Generation = 2
	}
	if v.Version == "" {
		v.Version = "9.0"
	}
	set := h.Add(V2, NewObject("Msvm_VirtualSystemSettingData", "InstanceID", instance, "ElementName", name, "VirtualSystemType", kind,
		"VirtualSystemSubType", fmt.Sprintf("Microsoft:Hyper-V:SubType:%d", v.Generation), "VirtualSystemIdentifier", v.ID, "Version", v.Version,
		"UserSnapshotType", uint16(3), "ConfigurationDataRoot", `C:\vm\`+v.Name, "ConfigurationID", strings.TrimPrefix(instance, "Microsoft:"),
		"CreationTime", time.Date(2025, 5, 6, 7, 8, 9, 0, time.UTC), "Notes", []string{}, "IncrementalBackupEnabled", false))
	controllers := map[string]*Object{}
	for _, d := range v.Disks {
		h.attach(set, instance, d, controllers)
	}
	return set
}

// attach makes a controller where there is none yet, a drive, and what is in it.
func (h *Host) attach(set *Object, instance string, d Disk, controllers map[string]*Object) {
	part := func(o *Object) *Object {
		h.Add(V2, o)
		h.Add(V2, NewObject("Msvm_VirtualSystemSettingDataComponent", "GroupComponent", set, "PartComponent", o))
		return o
	}
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
		controllers[name] = part(NewObject("Msvm_ResourceAllocationSettingData", "InstanceID", name, "ResourceType", kind, "ResourceSubType", sub,
			"Address", address, "AddressOnParent", nil, "Parent", nil, "HostResource", nil))
	}
	drive := fmt.Sprintf(`%s\%d`, name, d.Slot)
	at := []any{"InstanceID", drive + `\D`, "Parent", h.Path(h.opts.Name, controllers[name]), "AddressOnParent", strconv.Itoa(d.Slot), "Address", ""}
	if d.Physical {
		part(NewObject("Msvm_ResourceAllocationSettingData", append(at, "ResourceType", uint16(17), "ResourceSubType", "Microsoft:Hyper-V:Physical Disk Drive",
			"HostResource", []string{d.Path})...))
		return
	}
	subs := [2]string{"Microsoft:Hyper-V:Synthetic Disk Drive", "Microsoft:Hyper-V:Virtual Hard Disk"}
	if d.DVD {
		subs = [2]string{"Microsoft:Hyper-V:Synthetic DVD Drive", "Microsoft:Hyper-V:Virtual CD/DVD Disk"}
	}
	in := part(NewObject("Msvm_ResourceAllocationSettingData", append(at, "ResourceType", uint16(17), "ResourceSubType", subs[0], "HostResource", nil)...))
	f := part(NewObject("Msvm_StorageAllocationSettingData", "InstanceID", drive+`\L`, "ResourceType", uint16(31), "ResourceSubType", subs[1],
		"Parent", h.Path(h.opts.Name, in), "HostResource", []string{d.Path}))
	f.Values["disk"] = disk{d} // not among the names, so that it is not sent
}

var errNoFile = errors.New("the system cannot find the file specified")

// diskSettings is GetVirtualHardDiskSettingData.
func diskSettings(c *Call) (uint32, []any) {
	path := strings.Join(c.In["Path"], "")
	for _, o := range c.Host.objects {
		d, ok := o.Values["disk"].(disk)
		if !ok || !strings.EqualFold(d.Path, path) || d.Size == 0 {
			continue
		}
		set := NewObject("Msvm_VirtualHardDiskSettingData", "Path", d.Path, "Format", uint16(3), "Type", uint16(3), "ParentPath", nil,
			"MaxInternalSize", uint64(d.Size), "BlockSize", uint32(32<<20), "LogicalSectorSize", uint32(512), "PhysicalSectorSize", uint32(4096))
		if d.ID != "" {
			set.Set("VirtualDiskId", d.ID)
		}
		return 0, []any{"SettingData", Embedded{set}, "Job", nil}
	}
	return 4096, []any{"Job", c.Host.StartJob("Reading the disk", c.Host.opts.JobTime, func() error { return errNoFile })}
}

// createSnapshot makes a checkpoint's object, which is in listings from its job's end, or a while later.
func createSnapshot(c *Call) (uint32, []any) {
	h, vm := c.Host, c.Refs["AffectedSystem"]
	if vm == nil || vm == h.machine || len(c.In["SnapshotType"]) != 1 {
		return 32773, nil
	}
	set := strings.Join(c.In["SnapshotSettings"], "")
	if set != "" && !strings.HasPrefix(set, `<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData">`) {
		return 32773, nil
	}
	kind := map[string]string{"2": "Microsoft:Hyper-V:Snapshot:Realized", "32768": "Microsoft:Hyper-V:Snapshot:Recovery"}[c.In["SnapshotType"][0]]
	if kind == "" {
		return 32773, nil
	}
	return 4096, []any{"ResultingSnapshot", nil, "Job", h.StartJob("Creating a checkpoint", h.opts.JobTime, func() error {
		h.later(h.opts.Late, func() { h.checkpoint(vm, kind) })
		h.tick(time.Now())
		return nil
	})}
}

func (h *Host) checkpoint(vm *Object, kind string) {
	h.made++
	id, _ := vm.text("Name")
	name, _ := vm.text("ElementName")
	set := h.settings(vm, VM{ID: id, Name: name}, "Microsoft:"+guid("5AA", h.made), kind, name+" checkpoint")
	h.Add(V2, NewObject("Msvm_SnapshotOfVirtualSystem", "Antecedent", vm, "Dependent", set))
}

func destroySnapshot(c *Call) (uint32, []any) {
	gone := c.Refs["AffectedSnapshot"]
	if gone == nil || gone.Class != "Msvm_VirtualSystemSettingData" {
		return 32773, nil
	}
	return 4096, []any{"Job", c.Host.StartJob("Removing a checkpoint", c.Host.opts.JobTime, func() error {
		c.Host.Remove(gone)
		return nil
	})}
}
