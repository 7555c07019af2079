package hypervtest

import (
	"time"
)

// Namespaces.
const (
	V2    = "root/virtualization/v2"
	CIMV2 = "root/cimv2"
)

// Words of VirtualSystemType.
const (
	typeRealized = "Microsoft:Hyper-V:System:Realized"
	typePlanned  = "Microsoft:Hyper-V:System:Planned"
	typeUser     = "Microsoft:Hyper-V:Snapshot:Realized"
	typeRecovery = "Microsoft:Hyper-V:Snapshot:Recovery"
)

var serviceKeys = []string{"SystemCreationClassName", "SystemName", "CreationClassName", "Name"}

// seed makes the classes, the machine and its services.
func (h *Host) seed() {
	for _, c := range h.schema() {
		h.Define(V2, c)
	}
	h.Define(CIMV2, Class{Name: "Win32_OperatingSystem", Keys: []string{"Name"}})
	h.machine = h.Add(V2, NewObject("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", h.opts.Name,
		"ElementName", h.opts.Name, "Caption", "Hosting Computer System", "EnabledState", uint16(2), "OperationalStatus", []uint16{2},
		"InstallDate", time.Date(2024, 2, 1, 10, 0, 0, 0, time.UTC)))
	h.Add(CIMV2, NewObject("Win32_OperatingSystem", "Name", h.gen.caption[:len(h.gen.caption)-len(" Datacenter")]+`|C:\Windows|\Device\Harddisk0\Partition3`,
		"Caption", h.gen.caption, "Version", h.gen.version, "BuildNumber", h.gen.build,
		"LastBootUpTime", time.Date(2026, 3, 1, 6, 0, 0, 500000000, time.UTC), "FreePhysicalMemory", uint64(1<<33)))
	for _, name := range h.serviceNames() {
		h.services[name] = h.Add(V2, NewObject(name, "SystemCreationClassName", "Msvm_ComputerSystem", "SystemName", h.opts.Name,
			"CreationClassName", name, "Name", "vmms"))
	}
	h.Add(V2, NewObject("Msvm_VirtualEthernetSwitch", "CreationClassName", "Msvm_VirtualEthernetSwitch", "Name", "C5E0A1B2-0000-4000-8000-00000000E700",
		"ElementName", "External", "EnabledState", uint16(5)))
}

func (h *Host) serviceNames() []string {
	names := []string{"Msvm_VirtualSystemManagementService", "Msvm_VirtualSystemSnapshotService", "Msvm_ImageManagementService"}
	if h.gen.since("2016") {
		names = append(names, "Msvm_VirtualSystemReferencePointService", "Msvm_SecurityService")
	}
	return names
}

// schema are the classes that hosts of this generation have.
func (h *Host) schema() []Class {
	snapshots := map[string]Method{"CreateSnapshot": createSnapshot, "DestroySnapshot": destroySnapshot, "ApplySnapshot": applySnapshot}
	images := map[string]Method{"GetVirtualHardDiskSettingData": diskSettings, "GetVirtualHardDiskState": diskState, "CreateVirtualHardDisk": createDisk}
	list := []Class{
		{Name: "CIM_ComputerSystem", Keys: []string{"CreationClassName", "Name"}},
		{Name: "Msvm_ComputerSystem", Super: "CIM_ComputerSystem", Methods: map[string]Method{"RequestStateChange": requestState}},
		{Name: "Msvm_PlannedComputerSystem", Super: "CIM_ComputerSystem"},
		{Name: "Msvm_VirtualSystemSettingData", Keys: []string{"InstanceID"}},
		{Name: "CIM_ResourceAllocationSettingData", Keys: []string{"InstanceID"}},
		{Name: "CIM_ConcreteJob", Keys: []string{"InstanceID"}},
		{Name: "Msvm_ConcreteJob", Super: "CIM_ConcreteJob", Methods: map[string]Method{"GetErrorEx": errorsOf}},
		{Name: "Msvm_VirtualEthernetSwitch", Keys: []string{"CreationClassName", "Name"}},
		{Name: "Msvm_VirtualSystemManagementService", Keys: serviceKeys, Methods: managementMethods()},
		{Name: "Msvm_VirtualSystemSnapshotService", Keys: serviceKeys, Methods: snapshots},
		{Name: "Msvm_ImageManagementService", Keys: serviceKeys, Methods: images},
		{Name: "Msvm_SettingsDefineState", Keys: []string{"ManagedElement", "SettingData"}, Association: true},
		{Name: "Msvm_SnapshotOfVirtualSystem", Keys: []string{"Antecedent", "Dependent"}, Association: true},
		{Name: "Msvm_MostCurrentSnapshotInBranch", Keys: []string{"Antecedent", "Dependent"}, Association: true},
		{Name: "Msvm_LastAppliedSnapshot", Keys: []string{"Antecedent", "Dependent"}, Association: true},
		{Name: "Msvm_AffectedJobElement", Keys: []string{"AffectedElement", "AffectingElement"}, Association: true},
		{Name: "Msvm_VirtualSystemSettingDataComponent", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
		{Name: classFeatures, Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
		{Name: classVLAN, Keys: []string{"InstanceID"}},
	}
	for _, name := range resourceClasses {
		list = append(list, Class{Name: name, Super: "CIM_ResourceAllocationSettingData"})
	}
	for _, name := range componentClasses {
		list = append(list, Class{Name: name, Keys: []string{"InstanceID"}})
	}
	if !h.gen.since("2016") {
		return list
	}
	snapshots["ConvertToReferencePoint"] = convertSnapshot
	images["GetVirtualDiskChanges"] = diskChanges
	return append(list,
		Class{Name: "Msvm_SecuritySettingData", Keys: []string{"InstanceID"}},
		Class{Name: "Msvm_SecurityService", Keys: serviceKeys, Methods: map[string]Method{"GetKeyProtector": keyProtector, "SetKeyProtector": setKeyProtector,
			"ModifySecuritySettings": modifySecurity}},
		Class{Name: "Msvm_VirtualSystemReferencePoint", Keys: []string{"InstanceID"}},
		Class{Name: "Msvm_VirtualSystemReferencePointService", Keys: serviceKeys, Methods: map[string]Method{"DestroyReferencePoint": destroyReference}},
		Class{Name: "Msvm_ReferencePointOfVirtualSystem", Keys: []string{"Antecedent", "Dependent"}, Association: true},
	)
}

// resourceClasses are parts of a VM that have something of the host allocated.
var resourceClasses = []string{"Msvm_ResourceAllocationSettingData", "Msvm_StorageAllocationSettingData", "Msvm_MemorySettingData", "Msvm_ProcessorSettingData",
	"Msvm_SyntheticEthernetPortSettingData", "Msvm_EmulatedEthernetPortSettingData", "Msvm_EthernetPortAllocationSettingData"}

// componentClasses are parts without.
var componentClasses = []string{"Msvm_VssComponentSettingData", "Msvm_HeartbeatComponentSettingData", "Msvm_ShutdownComponentSettingData"}
