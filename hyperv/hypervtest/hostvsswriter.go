package hypervtest

import (
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// VSSGuest is what decides by which method the writer gets a VM's data consistent, besides its state and system. The zero value
// is a VM with all that is needed.
type VSSGuest struct {
	DynamicDisks       bool // inside the guest
	NoSnapshots        bool // the guest's file systems cannot be snapshotted: FAT
	SnapshotsElsewhere bool // the VM's snapshots lie on another volume than its disks
	NoSCSI             bool // it has no SCSI controller; so it is too where its settings have none
}

// SetVSS says so of this VM.
func (g *Guest) SetVSS(o VSSGuest) {
	v := g.h.hostVSS()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.guests[g.id] = o
}

// vssMethod is how the writer gets a VM's data consistent.
type vssMethod int

const (
	vssOnline  vssMethod = iota // by the integration components, while it runs
	vssSaved                    // it is saved for a moment
	vssOffline                  // it is off
)

// vssOffer is how the writer offers a VM.
type vssOffer struct {
	method  vssMethod
	linux   bool
	caption string
}

// offer chooses the method: the conditions are those of the generation.
func (h *Host) vssOffer(running, linux, components bool, name string, c VSSGuest) vssOffer {
	before2012R2 := !h.gen.since("2012r2")
	o := vssOffer{method: vssOnline, linux: linux}
	switch {
	case !running:
		o.method = vssOffline
	case !components, c.NoSCSI && h.gen.name == "2012r2":
		o.method = vssSaved
	case before2012R2 && (linux || c.DynamicDisks || c.NoSnapshots || c.SnapshotsElsewhere):
		o.method = vssSaved
	}
	words := [2]string{"Online", "Offline"}
	if before2012R2 {
		words = [2]string{"Backup Using Child Partition Snapshot", "Backup Using Saved State"}
	}
	o.caption = words[min(int(o.method), 1)] + `\` + name
	return o
}

// enrol takes a VM into a set. One that is gone has failed.
func (v *hostVSS) enrol(id string) *vssVM {
	g := v.h.VM(id)
	if g == nil {
		return &vssVM{id: id, failed: vssError("PrepareSnapshot", id, requester.WriterNonRetryable, "the virtual machine is not there any more")}
	}
	return &vssVM{id: id, g: g, offer: v.offerOf(g)}
}

func (v *hostVSS) offerOf(g *Guest) vssOffer {
	v.mu.Lock()
	c := v.guests[g.id]
	v.mu.Unlock()
	c.NoSCSI = c.NoSCSI || v.onlyIDE(g)
	g.mu.Lock()
	running, linux, components, name := g.on, g.os == "linux", g.integration, g.name
	g.mu.Unlock()
	return v.h.vssOffer(running, linux, components, name, c)
}

// onlyIDE: its disks are at such controllers, and it has no other.
func (v *hostVSS) onlyIDE(g *Guest) bool {
	v.h.Lock()
	defer v.h.Unlock()
	ide := false
	for _, o := range v.h.parts(g.set) {
		switch sub, _ := o.text("ResourceSubType"); sub {
		case "Microsoft:Hyper-V:Synthetic SCSI Controller":
			return false
		case "Microsoft:Hyper-V:Emulated IDE Controller":
			ide = true
		}
	}
	return ide
}

// writersOf are those of the classes that were enabled; none enabled: all.
func (v *hostVSS) writersOf(classes []requester.ID) []requester.Writer {
	all := []requester.Writer{
		{Instance: "{0AB00000-0000-4000-8000-000000000001}", Class: requester.HyperVWriter, Name: "Microsoft Hyper-V VSS Writer", Components: v.components()},
		{Instance: "{0AB00000-0000-4000-8000-000000000002}", Class: "{E8132975-6F93-4464-A53E-1050253AE220}", Name: "System Writer",
			Components: []requester.Component{{Type: requester.FileGroup, Name: "System Files", Files: []requester.FileSet{{Path: `C:\Windows`, Spec: "*", Recursive: true}}}}},
	}
	return slices.DeleteFunc(all, func(w requester.Writer) bool {
		return len(classes) > 0 && !slices.ContainsFunc(classes, func(c requester.ID) bool { return strings.EqualFold(string(c), string(w.Class)) })
	})
}

// components are the VMs, and on what they consist of.
func (v *hostVSS) components() (list []requester.Component) {
	v.h.places.Lock()
	guests := slices.Clone(v.h.ordered)
	v.h.places.Unlock()
	for _, g := range guests {
		offer := v.offerOf(g)
		c := requester.Component{Type: requester.FileGroup, Name: strings.ToUpper(g.id), Caption: offer.caption}
		for _, f := range v.filesOf(g, offer) {
			c.Files = append(c.Files, requester.FileSet{Path: folderOf(f) + `\`, Spec: baseOf(f)})
		}
		list = append(list, c)
	}
	return list
}

// filesOf are the files of a VM: its configuration, and its disks with all parents. On 2012 R2 those that auto-recovery is going to
// write into are named too.
func (v *hostVSS) filesOf(g *Guest, offer vssOffer) (list []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list = v.h.vssConfig(g)
	for _, d := range g.drives {
		for n := d.tip; n != nil; n = n.parent {
			list = append(list, n.name)
		}
		if offer.method == vssOnline && v.h.gen.name == "2012r2" {
			list = append(list, recoveryName(d))
		}
	}
	return list
}

// recoveryName is <disk>-AutoRecovery.avhdx (R069).
func recoveryName(d *drive) string {
	n := d.tip
	for n.parent != nil {
		n = n.parent
	}
	base, ending := stem(n.name)
	return base + "-AutoRecovery.a" + strings.TrimPrefix(strings.ToLower(ending), ".")
}

// fault is one that was asked for at an event of the service: vss.gather, vss.prepare, vss.do, vss.complete, vss.delete.
func (v *hostVSS) fault(vm, event, op string) error {
	f := v.h.eventFault(vm, event)
	if f == nil || f.Code == 0 && f.Reason == "" {
		return nil
	}
	code := requester.Code(f.Code)
	if code == 0 {
		code = 0x8000FFFF // E_UNEXPECTED
	}
	return vssError(op, vm, code, f.Reason)
}

// mountOf is where a volume is mounted that was named either way.
func (v *hostVSS) mountOf(op, volume string) (string, error) {
	for _, m := range v.mounts() {
		if strings.EqualFold(volumeName(m), volume) || strings.EqualFold(m, strings.TrimSuffix(volume, `\`)+`\`) {
			return m, nil
		}
	}
	if strings.HasPrefix(volume, `\\`) && !strings.HasPrefix(volume, `\\?\`) {
		return volume, nil // a share
	}
	return "", vssError(op, volume, requester.ObjectNotFound, "there is no such volume")
}

// supported: shares are for others to pin.
func (v *hostVSS) supported(mount string) bool { return len(mount) > 1 && mount[1] == ':' }
