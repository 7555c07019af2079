package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

// maxListed bounds how many machines or points are looked at: a source that never ends is not a source.
const maxListed = 1 << 20

// ErrAmbiguous is wrapped where a name fits several things and one was meant.
var ErrAmbiguous = errors.New("the name fits more than one")

// Plan is what a backup is going to do, before anything is touched. It can be printed.
type Plan struct {
	VM   hikae.VM        // as the provider lists it
	Name string          // its identity in the repository
	Base *pipe.PointInfo // nil: there is none

	unfinished *pipe.UnfinishedPoint // what a session that did not commit left; nil: nothing
	resumes    bool                  // Base is that

	newest *pipe.PointInfo // of the VM, whether or not it is the base; nil: none, or it is not known
	unread []string        // what was wrong with points that cannot be built on
	// damaged are the disks whose base turned out not to be readable.
	damaged map[string]string
}

// PlanBackup finds the VM and the base point. It changes nothing anywhere.
//
// vmID is the provider's id of the VM, or its name where only one has it; empty means the only one there is. Errors
// wrap fs.ErrNotExist or ErrAmbiguous.
func PlanBackup(ctx context.Context, provider hikae.SnapshotProvider, vmID string, backend pipe.Backend, opts *BackupOptions) (*Plan, error) {
	o := opts.orDefault()
	vm, err := findVM(ctx, provider, vmID)
	if err != nil {
		return nil, err
	}
	p := &Plan{VM: vm, Name: o.Name, damaged: map[string]string{}}
	if p.Name == "" {
		p.Name = vm.Name
	}
	if p.Name == "" {
		return nil, fmt.Errorf("VM %q has no name and none was given: %w", vm.ID, fs.ErrInvalid)
	}
	for _, key := range o.Disks {
		if !slices.ContainsFunc(vm.Disks, func(d hikae.Disk) bool { return d.Key == key }) {
			return nil, fmt.Errorf("disk %q of VM %s: %w", key, p.Name, fs.ErrNotExist)
		}
	}
	if o.Full || o.Base != "" { // what is not built on is not asked for more than is needed: its errors stop nothing
		p.newest, _, _ = findBase(ctx, backend, p.Name, "")
	}
	if o.Full {
		p.unfinished = findUnfinished(ctx, backend, p.Name)
		return p, nil
	}
	p.Base, p.unread, err = findBase(ctx, backend, p.Name, o.Base)
	if p.newest == nil {
		p.newest = p.Base
	}
	if err != nil {
		return p, err
	}
	p.unfinished = findUnfinished(ctx, backend, p.Name)
	if o.Base == "" {
		p.resume()
	}
	return p, nil
}

func findVM(ctx context.Context, provider hikae.SnapshotProvider, id string) (hikae.VM, error) {
	var named []hikae.VM
	seen := 0
	for vm, err := range provider.VMs(ctx) {
		if err != nil {
			return hikae.VM{}, fmt.Errorf("list VMs: %w", err)
		}
		if vm.ID == id && id != "" {
			return vm, nil
		}
		if vm.Name == id || id == "" {
			named = append(named, vm)
		}
		if seen++; seen > maxListed {
			return hikae.VM{}, fmt.Errorf("list VMs: more than %d", maxListed)
		}
	}
	switch len(named) {
	case 0:
		return hikae.VM{}, fmt.Errorf("VM %q: %w", id, fs.ErrNotExist)
	case 1:
		return named[0], nil
	}
	return hikae.VM{}, fmt.Errorf("VM %q: %w: %d VMs; use the id", id, ErrAmbiguous, len(named))
}

// findBase is the point with the given id, or the VM's newest where id is empty, of those that can be read; unread says
// what is wrong with others. An older base costs a larger increment, and never a byte.
func findBase(ctx context.Context, backend pipe.Backend, vm, id string) (base *pipe.PointInfo, unread []string, err error) {
	seen := 0
	for p, err := range backend.Points(ctx, vm) {
		switch {
		case isDamaged(err):
			if len(unread) < maxUnread {
				unread = append(unread, err.Error())
			}
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("list points of %s: %w", vm, err)
		}
		if id == "" || p.ID == id {
			base = &p
		}
		if seen++; seen > maxListed {
			return nil, nil, fmt.Errorf("list points of %s: more than %d", vm, maxListed)
		}
	}
	if base == nil && id != "" {
		return nil, nil, fmt.Errorf("base point %s of %s: %w", id, vm, fs.ErrNotExist)
	}
	return base, unread, nil
}

// maxUnread bounds how many points a plan names that cannot be built on.
const maxUnread = 8

// baseOf says whether a disk can be built on the base, and if not, why not. Where there is no base at all, the reason
// is empty: nothing was lost.
func (p *Plan) baseOf(disk hikae.Disk) (ok bool, reason string) {
	if p.Base == nil {
		return false, ""
	}
	if reason, bad := p.damaged[disk.Key]; bad {
		return false, reason
	}
	i := slices.IndexFunc(p.Base.Disks, func(d pipe.DiskInfo) bool { return d.Key == disk.Key })
	switch {
	case i < 0:
		return false, "the disk is new: the base point does not have it"
	case p.Base.Disks[i].Size != disk.Size:
		return false, fmt.Sprintf("the disk was resized from %d to %d bytes", p.Base.Disks[i].Size, disk.Size)
	}
	return true, ""
}

// since are the change ids of the base, for the provider to keep.
func (p *Plan) since() map[string]hikae.ChangeID { return trackingOf(p.Base) }

// past are the change ids of the newest point, which nothing is built on after this one.
func (p *Plan) past() map[string]hikae.ChangeID { return trackingOf(p.newest) }

func trackingOf(p *pipe.PointInfo) map[string]hikae.ChangeID {
	if p == nil {
		return nil
	}
	out := make(map[string]hikae.ChangeID, len(p.Tracking))
	for key, id := range p.Tracking {
		out[key] = hikae.ChangeID(id)
	}
	return out
}

// String tells the plan to a person, one line for each disk.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, onto %s\n", p.Name, p.baseWord())
	for _, reason := range p.unread {
		fmt.Fprintf(&b, "  not built on: %s\n", reason)
	}
	for _, d := range p.VM.Disks {
		ok, reason := p.baseOf(d)
		switch {
		case d.Skip != "":
			fmt.Fprintf(&b, "  %s: skipped: %s\n", d.Key, d.Skip)
		case ok:
			fmt.Fprintf(&b, "  %s: %d bytes, what changed\n", d.Key, d.Size)
		case reason == "":
			fmt.Fprintf(&b, "  %s: %d bytes, all data\n", d.Key, d.Size)
		default:
			fmt.Fprintf(&b, "  %s: %d bytes, all data: %s\n", d.Key, d.Size, reason)
		}
	}
	return b.String()
}

func (p *Plan) baseWord() string {
	switch {
	case p.Base == nil:
		return "no base"
	case p.resumes:
		return "what an unfinished session left (" + p.Base.ID + ")"
	}
	return "base " + p.Base.ID
}

// KeepIDs are the change ids that committed and unfinished points name: what a sweep must never drop. See [hikae.OnlyUnfinished]. A point that cannot be read is an
// error, for it may name some. It is none where a write-only client committed it: such a client could stop every sweep with
// a point that never was one, and what it lost is the base of its own VMs, whose next backup then reads all.
func KeepIDs(ctx context.Context, backend pipe.Backend) ([]hikae.ChangeID, error) {
	var keep []hikae.ChangeID
	for p, err := range backend.Points(ctx, "") {
		if bad, ok := errors.AsType[*repo.PointError](err); ok && bad.WriteOnly {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list points: %w", err)
		}
		for _, id := range p.Tracking {
			keep = append(keep, hikae.ChangeID(id))
		}
	}
	unfinished, err := keepUnfinished(ctx, backend, keep)
	if err != nil {
		return nil, err
	}
	keep = append(keep, unfinished...)
	slices.Sort(keep)
	return slices.Compact(keep), nil
}
