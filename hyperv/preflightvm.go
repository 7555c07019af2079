package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// disks tells what is backed up of which, and what is left out or in the way.
func (f *preflight) disks(ctx context.Context) error {
	if _, half := unfinishedOf(f.machine.Notes); half {
		f.vm(Stop, FindHalfRestored, "a restore in place was begun and did not end: its disks are a mixture of two states", "do not start it; restore a point in place again")
	}
	covered := 0
	for i := range f.machine.Disks {
		d := &f.machine.Disks[i]
		why := d.uncovered()
		f.out.Disks = append(f.out.Disks, DiskFinding{Key: d.Key, Place: d.place(), File: d.Path, Format: d.Format, Size: d.Size, Skip: why})
		if why != "" {
			severity, hint := Stop, "name it by ignore="+d.Key+" to leave it out"
			if f.o.Backup.ignores(d) {
				severity, hint = Weak, ""
				why += "; it is left out"
			}
			f.disk(severity, d.uncoveredName(), d, why, hint)
			continue
		}
		covered++
		f.format(d)
		f.pinned(ctx, d)
	}
	if covered == 0 {
		f.vm(Weak, FindNoDisk, "nothing of its disks is backed up", "")
	}
	if len(f.collections) > 0 {
		f.vm(Stop, FindGuestCluster, "it is in "+strings.Join(f.collections, ", ")+": VMs that share disks can only be pinned together", "back it up from within its guests")
	}
	return nil
}

func (d *Disk) uncoveredName() string {
	switch {
	case d.Physical:
		return FindPassThrough
	case d.Shared || d.Format == FormatVHDSet:
		return FindShared
	}
	return FindUnreadable
}

// pinned asks who can pin the volume of a disk that is to be read off-host.
func (f *preflight) pinned(ctx context.Context, d *Disk) {
	if f.out.Plan == nil || f.out.Plan.Mode != OffHost {
		return
	}
	var why []string
	for _, v := range f.o.Backup.Volumes {
		_, err := v.Volume(ctx, f.host.Info().Name, d.Path)
		if err == nil {
			return
		}
		why = append(why, v.Name()+": "+err.Error())
	}
	f.disk(Stop, FindNotPinned, d, "nobody can pin the volume that it lies on ("+strings.Join(why, "; ")+")", "use mode=on-host, or bring the means of the storage's vendor")
}

func (f *preflight) format(d *Disk) {
	if d.Format == FormatVHD && f.probed.host.Build >= build2012 {
		severity := Note
		if f.out.Plan != nil && f.out.Plan.Procedure == Production {
			severity = Weak
		}
		f.disk(severity, FindVHD, d, "it is a VHD: its changes are not tracked, and it ends at 2 TiB", "convert it by Convert-VHD while the VM is off")
	}
	if d.SectorSize == 4096 {
		f.disk(Note, FindSector, d, "its sectors have 4096 bytes: it can only be restored as such", "")
	}
}

// doing is what a VM's second OperationalStatus says, and how bad that is.
var doing = map[uint16]struct {
	severity   Severity
	name, what string
}{
	statusSnapshotting: {Stop, FindState, "a checkpoint of it is being made"},
	32769:              {Stop, FindState, "a checkpoint is being applied to it"},
	statusDeleting:     {Weak, FindMerging, "a checkpoint of it is being removed"},
	statusWaiting:      {Weak, FindMerging, "its disks wait to be merged"},
	statusMerging:      {Weak, FindMerging, "its disks are being merged"},
	32773:              {Stop, FindState, "it is being exported"},
	statusMigrating:    {Weak, FindMigrating, "it is on its way to another host"},
}

// state looks at what the VM is and does.
func (f *preflight) state(context.Context) error {
	m := f.machine
	switch m.State {
	case Running, Off:
	case Saved, 32769:
		f.vm(Weak, FindState, "it is saved: what it had in memory, and not yet written, is not part of the backup", "start it, or shut it down")
	case Paused, 32768:
		f.vm(Weak, FindState, "it is paused: it cannot be quiesced", "resume it; a host pauses VMs whose volume is full")
	default:
		f.vm(Weak, FindState, "it is "+m.State.String(), "wait for that")
	}
	for i, s := range m.Status {
		if i == 0 {
			if s == 5 {
				f.vm(Weak, FindSpace, "its host says that its volume is nearly full", "free some")
			}
			continue
		}
		if d, ok := doing[s]; ok {
			f.vm(d.severity, d.name, d.what, "wait for that")
		}
	}
	return nil
}

// settings looks at what a VM's settings forbid or ask for.
func (f *preflight) settings(ctx context.Context) error {
	ctx, cancel := f.host.bounded(ctx)
	defer cancel()
	in, err := f.host.find(ctx, f.machine.ID)
	if err != nil {
		return err
	}
	f.replica(in)
	ref, err := in.Keyed(f.host.space(), "CreationClassName", "Name")
	if err != nil {
		return err
	}
	all, err := cim.All(f.host.client.Associators(ctx, ref, cim.Hop{Result: settingClass}, nil))
	if err != nil {
		return err
	}
	set, err := present(all)
	if err != nil {
		return err
	}
	if f.set, err = set.Keyed(f.host.space(), "InstanceID"); err != nil {
		return err
	}
	if err := f.controllers(ctx); err != nil {
		return err
	}
	return f.security(ctx)
}

// replica: of a VM that Hyper-V Replica writes to, only the primary is what people work with.
func (f *preflight) replica(in *cim.Instance) {
	switch in.Text("ReplicationMode") {
	case "1":
		f.vm(Note, FindReplica, "it is replicated to another host", "")
	case "2", "4":
		f.vm(Weak, FindReplica, "it is a replica, which replication writes to: nothing runs in it that could be quiesced", "back up its primary")
	case "3":
		f.vm(Note, FindReplica, "it is a test of a replica", "")
	}
}

// controllers: 2012 R2's writer adds a disk to the running VM to recover it, and that needs a SCSI controller. Without, the VM is put
// into saved state instead.
func (f *preflight) controllers(ctx context.Context) error {
	if f.out.Plan == nil || f.out.Plan.Procedure != Writer2012R2 {
		return nil
	}
	list, err := cim.All(f.host.client.Associators(ctx, f.set, cim.Hop{Result: "Msvm_ResourceAllocationSettingData"}, nil))
	if err != nil {
		return err
	}
	for _, in := range list {
		if in.Text("ResourceSubType") == subSCSI {
			return nil
		}
	}
	f.vm(Weak, FindController, "it has no SCSI controller: its host's writer cannot back it up while it runs, and saves its state for that moment", "add one: it may be empty")
	return nil
}

// security: a shielded VM is backed up as it is, encrypted, and nobody gets in.
func (f *preflight) security(ctx context.Context) error {
	if f.probed.host.Build < build2016 {
		return nil
	}
	list, err := cim.All(f.host.client.Associators(ctx, f.set, cim.Hop{Result: "Msvm_SecuritySettingData"}, nil))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var told struct {
		TPM      bool `cim:"TpmEnabled,optional"`
		Shielded bool `cim:"ShieldingRequested,optional"`
	}
	if err := list[0].Decode(&told); err != nil {
		return err
	}
	if told.Shielded {
		f.vm(Weak, FindShielded, "it is shielded: nothing is done in its guest, and it only runs again on hosts of the same guardian", "keep its guardian's keys elsewhere too")
	}
	if told.TPM {
		f.vm(Note, FindTPM, "it has a virtual TPM: its state is saved with the point, and what seals it is the host's own", "keep BitLocker's recovery keys, and the host's guardian certificates")
	}
	return nil
}

const maxNamed = 8 // checkpoints in a finding

// checkpoints looks at those that there are, by whoever.
func (f *preflight) checkpoints(ctx context.Context) error {
	if f.host.legacy {
		return nil
	}
	list, err := f.host.checkpoints(ctx, f.machine.ID)
	if err != nil {
		return err
	}
	ours := len(ourCheckpoints(list))
	users := 0
	var others []string
	for _, in := range list {
		switch {
		case in.Text("VirtualSystemType") != recovery:
			users++
		case len(ourCheckpoints([]*cim.Instance{in})) == 0:
			others = append(others, candidateOf(in).String())
		}
	}
	if ours > 0 {
		f.vm(Note, FindOwn, fmt.Sprintf("%d of its checkpoints were made by a backup: one is running, or left them", ours), "a sweep removes what a dead session left")
	}
	if len(others) > 0 {
		f.vm(Weak, FindForeign, fmt.Sprintf("%d of its checkpoints are for a backup, and nothing proves them to be ours; they grow until the program that made them removes them: %s", len(others), strings.Join(others[:min(len(others), maxNamed)], ", ")),
			"where that program is gone, or there is none: Get-VMSnapshot and Remove-VMSnapshot on the host")
	}
	if users > 0 {
		f.vm(Note, FindUser, fmt.Sprintf("it has %d checkpoints: its disks are read through all of them", users), "")
	}
	return nil
}

// integration looks whether the guest can be asked to quiesce.
func (f *preflight) integration(ctx context.Context) error {
	if f.o.Backup.Quiesce == NoQuiesce {
		if p := f.out.Plan; p != nil && p.Procedure != Production {
			f.vm(Weak, FindIntegration, unheeded(p.Procedure), "leave quiesce=off out; or switch the VM's integration service Backup off, if its guest must not be asked")
		}
		return nil
	}
	if f.machine.State != Running {
		return nil
	}
	why, err := f.unquiesced(ctx)
	if err != nil || why == "" {
		return err
	}
	severity, what := Weak, why+": the backup is as after a power cut"
	if f.o.Backup.Quiesce == RequireQuiesce {
		severity, what = Stop, why+", and quiescing is required"
	}
	f.vm(severity, FindIntegration, what, "enable the integration service Backup, and in a Linux guest install the daemons of Hyper-V (hv_vss_daemon)")
	return nil
}

// unheeded says that a guest is asked although it was not to be: a writer has no word for that (R101).
func unheeded(p Procedure) string {
	return fmt.Sprintf("quiesce=off cannot be kept to: by procedure %s it is the host's writer that asks the guest", p)
}

// unquiesced says why not; empty where the host knows nothing against it.
func (f *preflight) unquiesced(ctx context.Context) (string, error) {
	ctx, cancel := f.host.bounded(ctx)
	defer cancel()
	if !f.set.Zero() {
		list, err := cim.All(f.host.client.Associators(ctx, f.set, cim.Hop{Result: "Msvm_VssComponentSettingData"}, nil))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, in := range list {
			if in.Text("EnabledState") == "3" {
				return "its integration service for backups is off", nil
			}
		}
	}
	wql := "SELECT * FROM Msvm_VssComponent WHERE SystemName = " + cim.Quote(strings.ToUpper(f.machine.ID))
	list, err := cim.All(f.host.client.Query(ctx, f.host.space(), wql, nil))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var told struct {
		Status []uint16 `cim:"OperationalStatus"`
	}
	if err := list[0].Decode(&told); err != nil {
		return "", err
	}
	if len(told.Status) > 0 {
		return componentStatus[told.Status[0]], nil
	}
	return "", nil
}

var componentStatus = map[uint16]string{6: "its integration service for backups failed", 7: "its integration service for backups is not compatible with the host's",
	12: "its guest does not answer to the integration service for backups", 13: "its guest does not answer to the integration service for backups any more"}
