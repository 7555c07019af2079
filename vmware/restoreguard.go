package vmware

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// guard keeps others off a VM while it is written over, as far as its server has the means:
//
//	another restore      the VM's own setting, with a mark; it is looked at before each disk, before the end of each, and at the end
//	a backup of ours     refuses a VM with such a setting
//	people and programs  cannot start, move or snapshot the VM: those methods are disabled. A vCenter Server can do that, for users
//	                     who may; a single host cannot
//	those who can still  are found by the same looks: power, snapshots and the files of disks are what they were
//
// What happens between two looks, where nothing could be disabled, is found by the second. A transport that writes into the
// disk has then written for that long to the file that it opened, which may be one that a snapshot keeps by now.
func (d *placeDraft) guard(ctx context.Context) error {
	held, why, err := d.restorer.client.disable(ctx, d.journal, d.machine, whilePlace, "the virtual machine is being restored")
	if d.held = held; why != "" {
		d.notes = append(d.notes, "that the VM is started, moved or snapshotted while it is written over was not prevented, only looked for: "+why)
	}
	return err
}

// unaltered looks at the VM. It is an error where it is not what it was when it was looked at first, or where our mark, once it
// is there, is not there any more.
func (d *placeDraft) unaltered(ctx context.Context) (*machine, error) {
	m, err := d.restorer.client.machine(ctx, d.machine.Self)
	if err != nil {
		return nil, err
	}
	if s := m.Runtime.PowerState; s != types.VirtualMachinePowerStatePoweredOff {
		return nil, &RunningError{VM: m.Name, State: string(s)}
	}
	if d.marked {
		switch p, there := placingOf(m.Config); {
		case !there:
			return nil, &AlteredError{VM: m.Name, What: "its setting " + keyPlacing + " was removed"}
		case p.mark != d.mark:
			return nil, p.busy(m.Name)
		}
	}
	if err := d.sameSnapshots(m); err != nil {
		return nil, err
	}
	for _, p := range d.disks {
		i := slices.IndexFunc(m.disks, func(k Disk) bool { return k.Device == p.Device })
		if i < 0 || m.disks[i].Key != p.Key || m.disks[i].File != p.File {
			return nil, &AlteredError{VM: m.Name, What: fmt.Sprintf("disk %s is not %q any more", p.Key, p.File)}
		}
	}
	return m, nil
}

func (d *placeDraft) sameSnapshots(m *machine) error {
	was := d.machine.tree
	parents := func(a, b snapshotNode) bool { return a.parent == b.parent }
	switch {
	case m.tree.current == was.current && maps.EqualFunc(m.tree.nodes, was.nodes, parents):
		return nil
	case len(was.nodes) == 0 && m.Snapshot != nil:
		return &SnapshotsError{VM: m.Name, Names: snapshotNames(m.Snapshot.RootSnapshotList, nil, 0)}
	}
	return &AlteredError{VM: m.Name, What: "its snapshots are others, or it stands on another one"}
}

// deadPlacings are the marks that restores of this process have left, which ended without a Commit.
var deadPlacings sync.Map

// refuseForeign refuses a VM that another restore writes over, and lets one pass that a dead restore of ours has left: only so
// can it be made whole. What is ours is told by the mark: this process has left it, or an effect of a dead session of this
// journal names it. The machine's name, which stands in the setting as well, is for people: two of one name are no wonder.
func (d *placeDraft) refuseForeign(ctx context.Context, m *machine) error {
	p, there := placingOf(m.Config)
	if !there || d.restorer.opts.TakeOver {
		return nil
	}
	if _, ours := deadPlacings.Load(p.mark); ours {
		return nil
	}
	journal, ok := d.journal.(interface {
		Pending(context.Context) iter.Seq2[hikae.Effect, error]
	})
	if !ok {
		return p.busy(m.Name)
	}
	for e, err := range journal.Pending(ctx) {
		if err == nil && e.Kind == kindRestore && e.Facts["mark"] == p.mark {
			return nil
		}
	}
	return p.busy(m.Name)
}

// busy says who writes over a VM.
func (p placing) busy(vm string) error {
	owner := "a restore in place that another program began"
	if p.by != "" {
		owner += " on machine " + p.by
	}
	if p.since != "" {
		owner += " at " + p.since
	}
	return &hikae.BusyError{What: "VM " + vm, Owner: owner + ", and that has not ended; if it is known to be dead, restore again from where it ran, or take over"}
}

// machineName is what this machine is called, as one word.
func machineName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	name = strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return r
		}
		return '_'
	}, name)
	return strings.ToValidUTF8(name[:min(len(name), maxMachineName)], "")
}

const maxMachineName = 64 // bytes
