package vmware

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

const (
	maxInRow       = 32 // snapshots in a row that a host allows
	trackingNeeds  = 7  // version of the virtual hardware
	snapshotMethod = "CreateSnapshot_Task"
)

// state looks at what the VM is and does.
func (f *preflight) state(ctx context.Context) error {
	run := f.m.Runtime
	if err := unfinished(f.m.Name, f.m.Config); err != nil {
		f.vm(Stop, err.Error(), "")
	}
	switch run.ConnectionState {
	case types.VirtualMachineConnectionStateConnected, "":
	default:
		f.vm(Stop, fmt.Sprintf("it is %s: its host cannot be asked for a snapshot", run.ConnectionState), "connect its host, or register it again")
	}
	if f.m.Config.Template {
		f.vm(Stop, "it is a template: no snapshot can be taken of it", "convert it to a virtual machine")
	}
	if run.PowerState == types.VirtualMachinePowerStateSuspended {
		f.vm(Weak, "it is suspended: what it had in memory, and not yet written, is not part of the backup", "resume it, or power it off")
	}
	if run.Question != nil {
		f.vm(Stop, "it waits for an answer: "+bounded(run.Question.Text), "answer it in the vSphere Client")
	}
	switch run.FaultToleranceState {
	case "", types.VirtualMachineFaultToleranceStateNotConfigured:
	default:
		f.vm(Weak, "it is protected by Fault Tolerance: a host may refuse the snapshot, and does not quiesce", "")
	}
	if f.encrypted() {
		f.vm(Note, "it is encrypted: what is backed up is decrypted by its host, and a restored VM must be encrypted again", "encrypt the repository")
	}
	if slices.Contains(f.m.DisabledMethod, snapshotMethod) {
		f.vm(Stop, "the server has snapshots of it disabled: "+snapshotMethod, "another program may be at work on it, or have left this behind")
	}
	return f.underway(ctx)
}

// bounded is text of the server for people to read, of a length that they can.
func bounded(text string) string {
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func (f *preflight) encrypted() bool {
	return f.m.Config.KeyId != nil || slices.ContainsFunc(f.m.disks, func(d Disk) bool { return d.Encrypted })
}

// underway looks at what is being done to the VM at this moment.
func (f *preflight) underway(ctx context.Context) error {
	tasks, err := f.c.tasks(ctx, f.m.RecentTask)
	if err != nil {
		return err
	}
	for _, doing := range []struct{ word, what string }{
		{"relocate", "it is being moved to other storage"},
		{"migrate", "it is being moved to another host"},
		{"snapshot", "a snapshot of it is being made or removed"},
		{"consolidate", "its disks are being consolidated"},
	} {
		if task := goingOn(tasks, doing.word); task != nil {
			f.vm(Stop, fmt.Sprintf("%s (%s)", doing.what, task.Key), "wait for that")
		}
	}
	return nil
}

// disks tells which disks a snapshot covers.
func (f *preflight) disks(context.Context) error {
	covered := 0
	for _, d := range f.m.disks {
		f.out.Disks = append(f.out.Disks, DiskFinding{Key: d.Key, Slot: d.Slot, File: d.File, Size: d.Size, Skip: d.Skip})
		if d.Skip != "" {
			f.found(Weak, fmt.Sprintf("%s, disk %s (%s)", f.object(), d.Slot, d.Key), "it is left out: "+d.Skip, "")
			f.told()
		} else {
			covered++
		}
	}
	switch {
	case len(f.m.disks) == 0:
		f.vm(Note, "it has no disks", "")
	case covered == 0:
		f.vm(Stop, "a snapshot covers none of its disks", "")
	}
	// A controller whose bus is shared keeps the whole VM from having snapshots, where its disks are not independent.
	for _, d := range f.m.Config.Hardware.Device {
		if scsi, ok := d.(types.BaseVirtualSCSIController); ok {
			if bus := scsi.GetVirtualSCSIController(); bus.SharedBus != "" && bus.SharedBus != types.VirtualSCSISharingNoSharing {
				f.vm(Stop, fmt.Sprintf("SCSI controller %d shares its bus (%s): its host takes no snapshot of such a VM", bus.BusNumber, bus.SharedBus),
					"back it up from within its guest")
			}
		}
	}
	return nil
}

// hardware is the version of the virtual hardware, zero where it is not told.
func (f *preflight) hardware() int {
	n, _ := strconv.Atoi(strings.TrimPrefix(f.m.Config.Version, "vmx-"))
	return n
}

// tracking tells what can be had of changed-block tracking.
func (f *preflight) tracking(context.Context) error {
	before := len(f.out.Findings)
	defer func() { // each disk that is read whole says why
		for i := range f.out.Findings[before:] {
			f.out.Findings[before+i].told = true
		}
	}()
	on := isTrue(f.m.Config.ChangeTrackingEnabled)
	switch {
	case f.hardware() > 0 && f.hardware() < trackingNeeds:
		f.out.Tracking = TrackingImpossible
		f.vm(Weak, fmt.Sprintf("its hardware version is %d: changes are not tracked below %d, so that each backup reads all", f.hardware(), trackingNeeds), "upgrade it")
	case !on && !f.m.Capability.ChangeTrackingSupported:
		f.out.Tracking = TrackingImpossible
		f.vm(Weak, "its host tracks no changes, so that each backup reads all", "")
	case on:
		f.out.Tracking = TrackingOn
		for _, d := range f.m.disks {
			if d.Skip == "" && d.ChangeID == "" {
				f.found(Note, fmt.Sprintf("%s, disk %s (%s)", f.object(), d.Slot, d.Key),
					"tracking is enabled for the VM and has no id for this disk yet: it begins with a snapshot, or is off for the disk", "")
			}
		}
	case f.m.Snapshot != nil:
		f.out.Tracking = TrackingBlocked
		f.vm(Weak, "tracking is off and must not be enabled while there are snapshots, so that each backup reads all", "remove the snapshots")
	case len(firstClass(f.m.disks)) > 0:
		f.out.Tracking = TrackingBlocked
		f.vm(Weak, "tracking is off, and enabling it here would break how its first-class disks are attached elsewhere", "")
	default:
		f.out.Tracking = TrackingPossible
		if f.o.KeepTracking {
			f.vm(Weak, "tracking is off and is to be kept so: each backup reads all", "")
		}
	}
	return nil
}

// snapshots looks at those that there are.
func (f *preflight) snapshots(context.Context) error {
	deep := f.m.tree.depth()
	switch {
	case deep >= maxInRow:
		f.vm(Stop, fmt.Sprintf("it has %d snapshots in a row, and its host allows no more than %d", deep, maxInRow), "remove some")
	case deep >= maxInRow-3:
		f.vm(Weak, fmt.Sprintf("it has %d snapshots in a row, and its host allows no more than %d", deep, maxInRow), "remove some")
	case deep > 0:
		f.vm(Note, fmt.Sprintf("it stands on %d snapshots: its disks are read through all of them", deep), "")
	}
	if own := f.m.tree.marked(""); len(own) > 0 {
		f.vm(Note, fmt.Sprintf("%d of its snapshots were made by a backup: one is running, or left them", len(own)), "")
	}
	if f.m.Runtime.ConsolidationNeeded {
		f.vm(Weak, "its disks need consolidation: each snapshot that is not merged makes it slower, and takes up room", "consolidate them in the vSphere Client")
		f.told()
	}
	return nil
}

// depth is how many snapshots the VM stands on.
func (t *snapshotTree) depth() (n int) {
	for at := t.current; at != "" && n <= maxSnapshots; n++ {
		node, ok := t.nodes[at]
		if !ok {
			break
		}
		at = node.parent
	}
	return n
}

// quiescing looks whether VMware Tools are there to be asked.
func (f *preflight) quiescing(context.Context) error {
	if f.o.Quiesce == NoQuiesce || !f.m.on() || f.m.toolsRun() {
		return nil
	}
	severity, what := Weak, "VMware Tools do not run: the backup is as after a power cut"
	if f.o.Quiesce == RequireQuiesce {
		severity, what = Stop, "VMware Tools do not run, and quiescing is required"
	}
	f.vm(severity, what, "install or start VMware Tools, or open-vm-tools")
	return nil
}
