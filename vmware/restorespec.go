package vmware

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// specOf makes of a recorded configuration the one that a new VM is made by, but for its devices, its name and its files. What
// belongs to the old VM alone, or to the host that it ran on, is left out, and what of that a person may miss is noted.
func specOf(was *types.VirtualMachineConfigInfo, keepIdentity bool) (spec types.VirtualMachineConfigSpec, notes []string) {
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	hw, power := was.Hardware, was.DefaultPowerOps
	spec = types.VirtualMachineConfigSpec{
		Version: was.Version, GuestId: was.GuestId, AlternateGuestName: was.AlternateGuestName, Annotation: was.Annotation,
		Firmware: was.Firmware, NumCPUs: hw.NumCPU, NumCoresPerSocket: hw.NumCoresPerSocket, MemoryMB: int64(hw.MemoryMB),
		VirtualICH7MPresent: hw.VirtualICH7MPresent, VirtualSMCPresent: hw.VirtualSMCPresent,
		MotherboardLayout: hw.MotherboardLayout, SimultaneousThreads: hw.SimultaneousThreads,
		MemoryHotAddEnabled: was.MemoryHotAddEnabled, CpuHotAddEnabled: was.CpuHotAddEnabled, CpuHotRemoveEnabled: was.CpuHotRemoveEnabled,
		Tools: toolsOf(was.Tools), Flags: flagsOf(was.Flags), ConsolePreferences: was.ConsolePreferences, PowerOpInfo: &power,
		RebootPowerOff: was.RebootPowerOff, CpuAllocation: was.CpuAllocation, MemoryAllocation: was.MemoryAllocation,
		LatencySensitivity: was.LatencySensitivity, SwapPlacement: was.SwapPlacement, BootOptions: bootOf(was.BootOptions),
		MaxMksConnections: was.MaxMksConnections, GuestAutoLockEnabled: was.GuestAutoLockEnabled,
		MemoryReservationLockedToMax: was.MemoryReservationLockedToMax, NestedHVEnabled: was.NestedHVEnabled, VPMCEnabled: was.VPMCEnabled,
		MessageBusTunnelEnabled: was.MessageBusTunnelEnabled, SevEnabled: was.SevEnabled, PmemFailoverEnabled: was.PmemFailoverEnabled,
		VmxStatsCollectionEnabled: was.VmxStatsCollectionEnabled, VmOpNotificationToAppEnabled: was.VmOpNotificationToAppEnabled,
		VmOpNotificationTimeout: was.VmOpNotificationTimeout, TdxEnabled: was.TdxEnabled, SevSnpEnabled: was.SevSnpEnabled,
		ExtraConfig: extraOf(was.ExtraConfig), VAppConfig: vAppOf(was.VAppConfig),
	}
	if keepIdentity {
		spec.Uuid, spec.LocationId = was.Uuid, was.LocationId
	}
	if n := was.NumaInfo; n != nil && n.CoresPerNumaNode != nil && !isTrue(n.AutoCoresPerNumaNode) {
		spec.VirtualNuma = &types.VirtualMachineVirtualNuma{CoresPerNumaNode: n.CoresPerNumaNode, ExposeVnumaOnCpuHotadd: n.VnumaOnCpuHotaddExposed}
	}
	for _, m := range was.CpuFeatureMask {
		spec.CpuFeatureMask = append(spec.CpuFeatureMask, types.VirtualMachineCpuIdInfoSpec{
			ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd}, Info: &m,
		})
	}
	if was.ManagedBy != nil {
		note("the VM was managed by %s, which does not know this one", was.ManagedBy.ExtensionKey)
	}
	if was.KeyId != nil {
		note("the VM was encrypted; this one is not, until a storage policy says so")
	}
	if was.FtInfo != nil {
		note("the VM was fault tolerant; this one is not, until that is turned on")
	}
	if len(was.NpivNodeWorldWideName) > 0 {
		note("the VM had world wide names of its own (NPIV); this one has none")
	}
	if a := was.CpuAffinity; a != nil && len(a.AffinitySet) > 0 {
		note("the VM was bound to processors of its host; this one is not")
	}
	return spec, notes
}

// toolsOf leaves out what VMware Tools tell of themselves.
func toolsOf(was *types.ToolsConfigInfo) *types.ToolsConfigInfo {
	if was == nil {
		return nil
	}
	t := *was
	t.ToolsVersion, t.ToolsInstallType, t.PendingCustomization, t.CustomizationKeyId, t.LastInstallInfo = 0, "", "", nil, nil
	return &t
}

// flagsOf leaves out what is of the old VM's moment.
func flagsOf(was types.VirtualMachineFlagInfo) *types.VirtualMachineFlagInfo {
	was.SnapshotDisabled, was.SnapshotLocked, was.RecordReplayEnabled = nil, nil, nil
	was.FaultToleranceType, was.UseToe, was.RunWithDebugInfo = "", nil, nil
	return &was
}

// bootOf leaves the order out: it names devices by keys that the new VM has not been given yet.
func bootOf(was *types.VirtualMachineBootOptions) *types.VirtualMachineBootOptions {
	if was == nil {
		return nil
	}
	b := *was
	b.BootOrder = nil
	return &b
}

// Settings that servers write for themselves into a VM's own: file names, state, identity. What others wrote there, such as a
// cloud image's user data, stays. Names are compared in lower case.
var (
	ownSettings = map[string]bool{
		"nvram": true, "extendedconfigfile": true, "sched.swap.derivedname": true, "cleanshutdown": true, "softpoweroff": true,
		"checkpoint.vmstate": true, "vmxstats.filename": true, "vc.uuid": true, "viv.moid": true, "guestinfo.detailed.data": true,
		"guestinfo.appinfo": true, "guestinfo.driverinfo": true, "ctkenabled": true, "toolsinstallmanager.lastinstallerror": true,
		"toolsinstallmanager.updatecounter": true, "monitor.phys_bits_used": true, "config.readonly": true, "filesearchpath": true,
	}
	ownPrefixes = []string{"hikae.", "uuid.", "migrate.", "vmotion.", "replay.", "guestinfo.vmtools.", "guestinfo.toolsinstall",
		"encryption.", "vtpm.", "snapshot.", "checkpoint.", "rollback.", "disk.migrate.", "vmware.tools."}
	ownEndings = []string{".ctkenabled", ".redo", ".filename", ".generatedaddress", ".generatedaddressoffset", ".digestfilename"}
)

const (
	maxSettings = 4096
	maxSetting  = 1 << 20 // bytes of one
)

func extraOf(was []types.BaseOptionValue) (out []types.BaseOptionValue) {
	for _, o := range was[:min(len(was), maxSettings)] {
		if o == nil {
			continue
		}
		v := o.GetOptionValue()
		text, ok := v.Value.(string)
		if ok && v.Key != "" && text != "" && len(text) <= maxSetting && !isOwnSetting(strings.ToLower(v.Key)) {
			out = append(out, &types.OptionValue{Key: v.Key, Value: text})
		}
	}
	return out
}

func isOwnSetting(key string) bool {
	if ownSettings[key] {
		return true
	}
	for _, p := range ownPrefixes {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	for _, e := range ownEndings {
		if strings.HasSuffix(key, e) {
			return true
		}
	}
	return false
}

// vAppOf are the properties of an appliance.
func vAppOf(was types.BaseVmConfigInfo) types.BaseVmConfigSpec {
	if was == nil {
		return nil
	}
	info := was.GetVmConfigInfo()
	add := types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd}
	spec := &types.VmConfigSpec{
		IpAssignment: &info.IpAssignment, Eula: info.Eula, OvfEnvironmentTransport: info.OvfEnvironmentTransport,
		InstallBootRequired: &info.InstallBootRequired, InstallBootStopDelay: info.InstallBootStopDelay,
	}
	for _, p := range info.Product {
		spec.Product = append(spec.Product, types.VAppProductSpec{ArrayUpdateSpec: add, Info: &p})
	}
	for _, p := range info.Property {
		spec.Property = append(spec.Property, types.VAppPropertySpec{ArrayUpdateSpec: add, Info: &p})
	}
	for _, s := range info.OvfSection {
		spec.OvfSection = append(spec.OvfSection, types.VAppOvfSectionSpec{ArrayUpdateSpec: add, Info: &s})
	}
	return spec
}
