package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// fresh reads the VMs anew right before the set is made: since they were planned a helper was brought, or another requester's set
// waited for. One whose disks were changed meanwhile is planned anew, because a set is read by its disks' files. Where the session is over
// no VM has failed by itself.
func (v *vssSet) fresh(ctx context.Context, vms []*planned, failed failures) (in []*planned, err error) {
	for _, vm := range vms {
		now, err := v.freshOne(ctx, vm)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			v.leaveOut(vm, err, failed)
			continue
		}
		in = append(in, now)
	}
	return in, nil
}

func (v *vssSet) freshOne(ctx context.Context, vm *planned) (*planned, error) {
	id := vm.machine.ID
	h, err := v.p.site.Owner(ctx, id)
	if err != nil {
		return nil, err
	}
	now := &planned{plan: vm.plan, host: h}
	if now.machine, err = h.Machine(ctx, id); err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Info().Name, err)
	}
	if differ(vm.machine.Disks, now.machine.Disks) != "" {
		if now, err = v.p.planned(ctx, id); err != nil {
			return nil, err
		}
	}
	if groupKind(now) != groupKind(vm) {
		return nil, changed(vm, "it was to be backed up on host %s by procedure %s, and now is by %s on %s",
			vm.host.Info().Name, vm.plan.Procedure, now.plan.Procedure, now.host.Info().Name)
	}
	if h.Info().Build < build2012R2 {
		return now, nil
	}
	list, err := h.checkpoints(ctx, id)
	for _, in := range list {
		v.before[id] = append(v.before[id], in.Text("InstanceID"))
	}
	return now, err
}

func changed(vm *planned, format string, args ...any) error {
	return &ChangedError{VM: vm.machine.ID, What: fmt.Sprintf(format, args...)}
}

// differ says which disk is not what it was, and nothing where all are.
func differ(was, is []Disk) string {
	at := map[string]*Disk{}
	for i := range is {
		at[is[i].place()] = &is[i]
	}
	for i := range was {
		place := was[i].place()
		now := at[place]
		switch {
		case now == nil:
			return fmt.Sprintf("disk %s (%s) is not there any more", place, was[i].Path)
		case (now.uncovered() == "") != (was[i].uncovered() == ""):
			return fmt.Sprintf("disk %s (%s) can be backed up or cannot, and it was the other way: %s%s", place, now.Path, now.uncovered(), was[i].uncovered())
		case !strings.EqualFold(now.Path, was[i].Path):
			return fmt.Sprintf("disk %s was %s and is %s", place, was[i].Path, now.Path)
		}
		delete(at, place)
	}
	for place, d := range at {
		return fmt.Sprintf("disk %s (%s) was added", place, d.Path)
	}
	return ""
}

// seen is a VM as it was right after a set was made.
type seen struct {
	machine *Machine
	chains  map[string][]string // by a disk's place: its files, the one that the VM writes to first
	held    map[string]bool     // files, in small letters, that persons' checkpoints hold which were not there before
	err     error               // it could not be seen
}

// look sees what the VMs are made of right after the set was made.
func (v *vssSet) look(ctx context.Context, vms []*planned) {
	ctx, cancel := v.together(ctx, vms)
	defer cancel()
	for _, vm := range vms {
		s, err := v.lookAt(ctx, vm.machine.ID)
		if err != nil {
			s = &seen{err: err}
		}
		v.then[vm.machine.ID] = s
	}
}

func (v *vssSet) lookAt(ctx context.Context, id string) (*seen, error) {
	h, err := v.p.site.Owner(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &seen{chains: map[string][]string{}, held: map[string]bool{}}
	if s.machine, err = h.Machine(ctx, id); err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Info().Name, err)
	}
	for i := range s.machine.Disks {
		d := &s.machine.Disks[i]
		if s.chains[d.place()], err = h.chainOf(ctx, *d); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	if h.Info().Build < build2012R2 {
		return s, nil // writers make no checkpoints there
	}
	list, err := h.checkpoints(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		if in.Text("VirtualSystemType") != taken || slices.Contains(v.before[id], in.Text("InstanceID")) {
			continue
		}
		if err := s.hold(ctx, h, in); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// taken is the VirtualSystemType of checkpoints that persons take.
const taken = "Microsoft:Hyper-V:Snapshot:Realized"

// hold notes which files a checkpoint holds. One that is just removed holds none.
func (s *seen) hold(ctx context.Context, h *Host, checkpoint *cim.Instance) error {
	ref, err := checkpoint.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return err
	}
	disks, err := h.disks(ctx, ref)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checkpoint %s: %w", checkpoint.Text("InstanceID"), err)
	}
	for _, d := range disks {
		s.held[strings.ToLower(d.Path)] = true
	}
	return nil
}

// above are the files between the one that a VM writes to and the one that was planned, the lowest first. It is false where the VM
// does not stand on that at all.
func (s *seen) above(d *Disk) ([]string, bool) {
	chain := s.chains[d.place()]
	at := slices.IndexFunc(chain, func(f string) bool { return strings.EqualFold(f, d.Path) })
	if at < 0 {
		return nil, false
	}
	up := slices.Clone(chain[:at])
	slices.Reverse(up)
	return up, true
}

// writers are those of the files above a disk that the host's writer made for its checkpoint: what was made above a file that a
// person's checkpoint holds is that person's.
func (s *seen) writers(d *Disk) (made []string) {
	up, _ := s.above(d)
	for i, file := range up {
		below := d.Path
		if i > 0 {
			below = up[i-1]
		}
		if isChild(file) && !s.held[strings.ToLower(below)] {
			made = append(made, file)
		}
	}
	return made
}

// unchanged says whether a VM's disks are in the set by the files that were planned. A checkpoint that somebody took between the
// reading right before the set and the set itself would make those old: the VM had gone on in a child. What was changed after the set was
// made does no harm, where it can be told from that.
func (v *vssSet) unchanged(ctx context.Context, vm *planned, files []string) error {
	then := v.then[vm.machine.ID]
	if then.err != nil {
		return fmt.Errorf("whether its disks are still what they were could not be seen: %w", then.err)
	}
	if what := differ(unnamed(vm.machine.Disks), unnamed(then.machine.Disks)); what != "" {
		return changed(vm, "%s", what)
	}
	for i := range vm.machine.Disks {
		d := &vm.machine.Disks[i]
		if d.uncovered() != "" {
			continue
		}
		if err := v.topmost(ctx, vm, d, then); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return v.childless(ctx, vm, then, files)
}

// unnamed are disks without their files, where those may have children.
func unnamed(list []Disk) []Disk {
	list = slices.Clone(list)
	for i := range list {
		if list[i].uncovered() == "" {
			list[i].Path = ""
		}
	}
	return list
}

// topmost says whether a disk's planned file was the one that the VM wrote to when the set was made, but for the writer's own
// checkpoint. Its child then, made by anybody else, is in the set; one that was made later is not.
func (v *vssSet) topmost(ctx context.Context, vm *planned, d *Disk, then *seen) error {
	up, stands := then.above(d)
	if !stands {
		return changed(vm, "it does not stand on %s any more, but is %s", d.Path, strings.Join(then.chains[d.place()], ", "))
	}
	if len(up) == 0 || v.host.Info().Build >= build2012R2 && !then.held[strings.ToLower(d.Path)] {
		return nil
	}
	img, err := v.files.Open(ctx, up[0])
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s, which was made after the plan: %w", up[0], err)
	}
	why := changed(vm, "a checkpoint was taken, and it wrote to %s when the shadow copy was made: %s in that is old", up[0], d.Path)
	return errors.Join(why, img.Close())
}

// childless says whether the writer names a child of a planned file. It tells its files before it makes the set, so that the child of
// its own checkpoint is none of them; that of an auto-recovery checkpoint may be (R069).
func (v *vssSet) childless(ctx context.Context, vm *planned, then *seen, files []string) error {
	known := map[string]bool{}
	for i := range vm.machine.Disks {
		d := &vm.machine.Disks[i]
		chain := then.chains[d.place()]
		up, _ := then.above(d)
		chain = chain[len(up):]
		for _, f := range slices.Concat(chain, recoveryFiles(chain)) {
			known[strings.ToLower(f)] = true
		}
	}
	for _, file := range files {
		if !isChild(file) || known[strings.ToLower(file)] {
			continue
		}
		img, err := v.openDisk(ctx, file)
		if parent := (*vhdx.ParentError)(nil); errors.Is(err, fs.ErrNotExist) && !errors.As(err, &parent) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s, which the writer names and the VM did not write to: %w", file, err)
		}
		chain := img.Files()
		if err := img.Close(); err != nil {
			return err
		}
		for i := range vm.machine.Disks {
			d := &vm.machine.Disks[i]
			if slices.ContainsFunc(chain[1:], func(f string) bool { return strings.EqualFold(f, d.Path) }) {
				return changed(vm, "the writer names %s, which stands on %s of disk %s: that is old", file, d.Path, d.Key)
			}
		}
	}
	return nil
}
