package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// tellTools makes the machine's properties say what VMware Tools a guest shows that is on or off. It is told when the machine is
// turned on or off and when its quiescing is set, and not in between, so that what a client sets by hand ("SET.guest.…" in the
// extra configuration, which the simulator takes) stays. The machine's lock is held.
func (v *VM) tellTools(ctx *simulator.Context, power types.VirtualMachinePowerState) {
	vm := v.sim()
	if vm == nil {
		return
	}
	running, version := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning, types.VirtualMachineToolsVersionStatusGuestToolsUnmanaged
	status, state := types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineGuestStateNotRunning
	on := power == types.VirtualMachinePowerStatePoweredOn
	switch {
	case v.quiescing == QuiesceNoTools:
		version, status = types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled, types.VirtualMachineToolsStatusToolsNotInstalled
	case on:
		running, state = types.VirtualMachineToolsRunningStatusGuestToolsRunning, types.VirtualMachineGuestStateRunning
		status = types.VirtualMachineToolsStatusToolsOk
	}
	ready := state == types.VirtualMachineGuestStateRunning
	ctx.WithLock(vm, func() {
		if vm.Guest == nil {
			return
		}
		changes := []types.PropertyChange{
			{Name: "guest.toolsRunningStatus", Val: string(running)}, {Name: "guest.toolsVersionStatus", Val: string(version)},
			{Name: "guest.toolsVersionStatus2", Val: string(version)}, {Name: "guest.toolsStatus", Val: status},
			{Name: "guest.guestState", Val: string(state)}, {Name: "guest.guestOperationsReady", Val: ready},
		}
		if vm.Summary.Guest != nil {
			changes = append(changes, types.PropertyChange{Name: "summary.guest.toolsRunningStatus", Val: string(running)},
				types.PropertyChange{Name: "summary.guest.toolsVersionStatus2", Val: string(version)},
				types.PropertyChange{Name: "summary.guest.toolsStatus", Val: status})
		}
		ctx.Update(vm, changes)
	})
}
