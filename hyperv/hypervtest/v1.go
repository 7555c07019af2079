package hypervtest

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/hyperv/vhdx"
)

// V1 is the namespace of 2008 R2, which 2012 has beside the newer one. Its words are those of Microsoft's documentation of the
// Hyper-V WMI provider before V2; the numbers of ResourceType and the forms of InstanceID are from general knowledge.
const V1 = "root/virtualization"

// Values of SettingType.
const (
	v1Current  = uint16(3)
	v1Snapshot = uint16(5)
)

// v1Subs are the words of 2008 R2 for what later hosts call otherwise, and their ResourceType.
var v1Subs = map[string]struct {
	sub  string
	kind uint16
}{
	subDisk:                                       {"Microsoft Virtual Hard Disk", 21},
	subPhysical:                                   {"Microsoft Physical Disk Drive", 22},
	"Microsoft:Hyper-V:Synthetic Disk Drive":      {"Microsoft Synthetic Disk Drive", 22},
	"Microsoft:Hyper-V:Synthetic DVD Drive":       {"Microsoft Synthetic DVD Drive", 16},
	"Microsoft:Hyper-V:Virtual CD/DVD Disk":       {"Microsoft Virtual CD/DVD Disk", 21},
	"Microsoft:Hyper-V:Emulated IDE Controller":   {"Microsoft Emulated IDE Controller", 5},
	"Microsoft:Hyper-V:Synthetic SCSI Controller": {"Microsoft Synthetic SCSI Controller", 6},
}

// seedV1 makes the classes and services of the older namespace.
func (h *Host) seedV1() {
	for _, c := range []Class{
		{Name: "CIM_ComputerSystem", Keys: []string{"CreationClassName", "Name"}},
		{Name: "Msvm_ComputerSystem", Super: "CIM_ComputerSystem"},
		{Name: "CIM_SettingData", Keys: []string{"InstanceID"}},
		{Name: "Msvm_VirtualSystemSettingData", Super: "CIM_SettingData"},
		{Name: "Msvm_VirtualSystemGlobalSettingData", Super: "CIM_SettingData"},
		{Name: "CIM_ResourceAllocationSettingData", Super: "CIM_SettingData"},
		{Name: "Msvm_ResourceAllocationSettingData", Super: "CIM_ResourceAllocationSettingData"},
		{Name: "Msvm_MemorySettingData", Super: "CIM_ResourceAllocationSettingData"},
		{Name: "Msvm_ProcessorSettingData", Super: "CIM_ResourceAllocationSettingData"},
		{Name: "CIM_ConcreteJob", Keys: []string{"InstanceID"}},
		{Name: "Msvm_ConcreteJob", Super: "CIM_ConcreteJob", Methods: map[string]Method{"GetError": errorV1}},
		{Name: "Msvm_VirtualSystemManagementService", Keys: serviceKeys,
			Methods: map[string]Method{"CreateVirtualSystemSnapshot": createSnapshotV1, "RemoveVirtualSystemSnapshot": removeSnapshotV1}},
		{Name: "Msvm_ImageManagementService", Keys: serviceKeys, Methods: map[string]Method{"GetVirtualHardDiskInfo": diskInfoV1}},
		{Name: "Msvm_SettingsDefineState", Keys: []string{"ManagedElement", "SettingData"}, Association: true},
		{Name: "Msvm_ElementSettingData", Keys: []string{"ManagedElement", "SettingData"}, Association: true},
		{Name: "Msvm_VirtualSystemSettingDataComponent", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
		{Name: "Msvm_AffectedJobElement", Keys: []string{"AffectedElement", "AffectingElement"}, Association: true},
	} {
		h.Define(V1, c)
	}
	for _, name := range []string{"Msvm_VirtualSystemManagementService", "Msvm_ImageManagementService"} {
		h.Add(V1, NewObject(name, "SystemCreationClassName", "Msvm_ComputerSystem", "SystemName", h.opts.Name, "CreationClassName", name, "Name", "vmms"))
	}
}

// mirrorV1 makes the VMs of the older namespace anew, from what they are now. Whoever asks there sees them so.
func (h *Host) mirrorV1(namespace string) {
	if !strings.EqualFold(namespace, V1) || h.gen.hidden(V1) {
		return
	}
	if h.classes[key(V1, "Msvm_ComputerSystem")] == nil {
		h.seedV1()
	}
	h.objects = slices.DeleteFunc(h.objects, func(o *Object) bool {
		return o.Namespace == V1 && o.Class != "Msvm_ConcreteJob" && !strings.HasSuffix(o.Class, "Service")
	})
	h.Add(V1, mirror(h.machine, "CreationClassName", "Name", "ElementName", "Caption", "EnabledState", "OperationalStatus", "InstallDate"))
	for _, g := range h.ordered {
		h.mirrorVM(g)
	}
}

// mirror copies some values.
func mirror(o *Object, names ...string) *Object {
	c := &Object{Class: o.Class, Values: map[string]any{}}
	for _, n := range names {
		c.Set(n, o.Values[n])
	}
	return c
}

func (h *Host) mirrorVM(g *Guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, _ := g.object.text("Name")
	vm := h.Add(V1, mirror(g.object, "CreationClassName", "Name", "ElementName", "Caption", "EnabledState", "OperationalStatus", "InstallDate", "TimeOfLastStateChange"))
	set := h.settingsV1(g.set, id, v1Current)
	h.Add(V1, NewObject("Msvm_SettingsDefineState", "ManagedElement", vm, "SettingData", set))
	global := h.Add(V1, NewObject("Msvm_VirtualSystemGlobalSettingData", "InstanceID", "Microsoft:"+id+`\Global`, "SystemName", id, "ElementName", g.name,
		"ExternalDataRoot", g.folder, "SnapshotDataRoot", g.folder, "AutomaticStartupAction", uint16(1), "AutomaticShutdownAction", uint16(1)))
	h.Add(V1, NewObject("Msvm_ElementSettingData", "ManagedElement", vm, "SettingData", global))
	for _, cp := range g.checkpoints {
		if cp.object != nil && cp.kind == typeUser {
			snap := h.settingsV1(cp.object, id, v1Snapshot)
			h.Add(V1, NewObject("Msvm_ElementSettingData", "ManagedElement", vm, "SettingData", snap))
		}
	}
}

// settingsV1 are one state of a VM with its parts.
func (h *Host) settingsV1(from *Object, vm string, kind uint16) *Object {
	set := mirror(from, "InstanceID", "ElementName", "CreationTime", "BIOSNumLock")
	set.Set("SystemName", vm)
	set.Set("SettingType", kind)
	set.Set("Notes", strings.Join(stringsOf(from.Values["Notes"]), "\n"))
	set.Set("Parent", nil)
	if p, ok := from.text("Parent"); ok {
		set.Set("Parent", strings.Replace(p, `\virtualization\v2:`, `\virtualization:`, 1))
	}
	h.Add(V1, set)
	for _, o := range h.parts(from) {
		if p := partV1(o); p != nil {
			h.Add(V1, p)
			h.Add(V1, NewObject("Msvm_VirtualSystemSettingDataComponent", "GroupComponent", set, "PartComponent", p))
		}
	}
	return set
}

func stringsOf(v any) []string {
	list, _ := v.([]string)
	return list
}

// partV1 is a part in the words of 2008 R2: a drive's place on its controller is its Address, and a disk's file its Connection. Parts
// that are not there are nil.
func partV1(o *Object) *Object {
	switch o.Class {
	case "Msvm_MemorySettingData", "Msvm_ProcessorSettingData":
		return mirror(o, "InstanceID", "ResourceType", "VirtualQuantity", "Reservation", "Limit", "Weight")
	case "Msvm_ResourceAllocationSettingData", "Msvm_StorageAllocationSettingData":
	default:
		return nil
	}
	sub, _ := o.text("ResourceSubType")
	word, known := v1Subs[sub]
	if !known {
		return nil
	}
	p := NewObject("Msvm_ResourceAllocationSettingData", "InstanceID", o.Values["InstanceID"], "ResourceType", word.kind, "ResourceSubType", word.sub)
	address, _ := o.text("AddressOnParent")
	if address == "" {
		address, _ = o.text("Address")
	}
	p.Set("Address", address)
	p.Set("Parent", nil)
	if parent, ok := o.text("Parent"); ok {
		p.Set("Parent", strings.NewReplacer(`\virtualization\v2:`, `\virtualization:`, "Msvm_StorageAllocationSettingData", "Msvm_ResourceAllocationSettingData").Replace(parent))
	}
	p.Set("HostResource", nil)
	p.Set("Connection", nil)
	if list := stringsOf(o.Values["HostResource"]); len(list) > 0 {
		name := "Connection"
		if sub == subPhysical {
			name = "HostResource"
		}
		p.Set(name, slices.Clone(list))
	}
	return p
}

// jobV1 is a job of the older namespace.
func (h *Host) jobV1(j *Object) *Object {
	j.Namespace = V1
	return j
}

// guestV1 finds the VM of a reference.
func (c *Call) guestV1(name string) *Guest {
	o := c.Refs[name]
	if o == nil || o.Class != "Msvm_ComputerSystem" {
		return nil
	}
	id, _ := o.text("Name")
	return c.Host.guests[strings.ToLower(id)]
}

// createSnapshotV1 is CreateVirtualSystemSnapshot: a user's, and the guest is not quiesced for it.
func createSnapshotV1(c *Call) (uint32, []any) {
	h, g := c.Host, c.guestV1("SourceSystem")
	if g == nil {
		return 32773, nil
	}
	if g.status() != 0 {
		return 32775, nil
	}
	h.event(Event{Actor: "requester", Name: "request", VM: g.id, Detail: "snapshot"})
	g.setStatus(statusCreating)
	return 4096, []any{"SnapshotSettingData", nil, "Job", h.jobV1(h.startJob(c.Method, g.id, "Creating a snapshot", h.opts.JobTime, func() error {
		cp, err := g.take(wish{kind: typeUser, level: 2})
		if err == nil {
			h.list(g, cp, h.opts.Late, nil)
		}
		return err
	}, func() { g.setStatus(0) }))}
}

// removeSnapshotV1 is RemoveVirtualSystemSnapshot. A host before 2012 merges the files when the VM is off: until then they stay.
func removeSnapshotV1(c *Call) (uint32, []any) {
	h := c.Host
	gone := c.Refs["SnapshotSettingData"]
	if gone == nil || gone.Class != "Msvm_VirtualSystemSettingData" {
		return 32773, nil
	}
	id, _ := gone.text("InstanceID")
	for _, g := range h.ordered {
		for _, cp := range g.checkpoints {
			if cp.object == nil || !strings.EqualFold("Microsoft:"+cp.id, id) {
				continue
			}
			if g.status() != 0 {
				return 32775, nil
			}
			g.setStatus(statusDeleting)
			return 4096, []any{"Job", h.jobV1(h.startJob(c.Method, g.id, "Removing a snapshot", h.opts.JobTime, func() error { return g.forget(cp, false) },
				func() {
					g.setStatus(0)
					if h.gen.since("2012") || !g.running() {
						h.collapse(g)
					}
				}))}
		}
	}
	return 32773, nil
}

// diskInfoV1 is GetVirtualHardDiskInfo, which answers at once.
func diskInfoV1(c *Call) (uint32, []any) {
	const notFound, failed = 32779, 32768
	h, name := c.Host, c.text("Path")
	info, size, err := h.imageInfo(name)
	if errors.Is(err, errNoFile) {
		return notFound, nil
	}
	if err != nil {
		return failed, nil
	}
	length := int64(0)
	if path, err := h.volumePath(name); err == nil {
		if f, err := os.Stat(path); err == nil {
			length = f.Size()
		}
	}
	kind := map[vhdx.Type]uint16{vhdx.Fixed: 2, vhdx.Dynamic: 3, vhdx.Differencing: 4}[info.Type]
	set := NewObject("Msvm_VirtualHardDiskInfo", "FileSize", uint64(length), "InSavedState", false, "InUse", h.ownerOf(name) != nil,
		"MaxInternalSize", uint64(size), "ParentPath", "", "Type", kind)
	if g := h.ownerOf(name); g != nil {
		g.mu.Lock()
		if _, n := g.driveOf(name); n != nil && n.parent != nil {
			set.Set("ParentPath", n.parent.name)
		}
		g.mu.Unlock()
	}
	return 0, []any{"Info", Embedded{set}}
}

// errorV1 is GetError of a job.
func errorV1(c *Call) (uint32, []any) {
	text, failed := c.Object.text("ErrorDescription")
	if !failed {
		return 0, []any{"Error", nil}
	}
	return 0, []any{"Error", Embedded{NewObject("Msvm_Error", "Message", text, "MessageID", strconv.Itoa(32768))}}
}
