package vmwaretest

import (
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Quiescing is how a guest answers when it is asked to be still.
type Quiescing string

const (
	QuiesceOK      Quiescing = ""            // files are flushed, applications asked
	QuiesceFails   Quiescing = "application" // an application refuses: ApplicationQuiesceFault
	QuiesceNoTools Quiescing = "tools"       // no VMware Tools run in the guest: the snapshot is not quiesced, and no fault tells
	QuiesceRefused Quiescing = "unavailable" // Tools are needed, and are not there: ToolsUnavailable
	QuiesceTimeout Quiescing = "timeout"     // the guest never answers: FilesystemQuiesceFault
)

// SetQuiescing says how the guest answers from now on. With QuiesceNoTools its properties tell of no VMware Tools; with any other,
// of some that run while the machine is on.
func (v *VM) SetQuiescing(q Quiescing) {
	power := v.power()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.quiescing = q
	v.tellTools(v.s.context(), power)
}

// OnQuiesce is called when a snapshot asks the guest to be still, before the disks are frozen: what it writes is in a
// quiesced snapshot and not in another. Nil: nothing is.
func (v *VM) OnQuiesce(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.onQuiesce = f
}

// quiesce asks the guest, and reports whether it was still.
func (v *VM) quiesce(spec snapSpec, power types.VirtualMachinePowerState) (bool, types.BaseMethodFault) {
	v.mu.Lock()
	how, hook := v.quiescing, v.onQuiesce
	v.mu.Unlock()
	if !spec.quiesce || spec.memory || power != types.VirtualMachinePowerStatePoweredOn {
		return false, nil
	}
	switch how {
	case QuiesceFails:
		return false, &types.ApplicationQuiesceFault{}
	case QuiesceRefused:
		return false, &types.ToolsUnavailable{}
	case QuiesceTimeout:
		return false, &types.FilesystemQuiesceFault{}
	case QuiesceNoTools:
		return false, nil
	}
	if hook != nil {
		hook()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stunned(500*time.Millisecond, 0)
	return true, nil
}
