package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae"
)

// GroupError says which VMs of a group failed, each for a reason of its own, while the others were pinned: the snapshots
// beside it are good, and have to be released.
type GroupError struct {
	VMs map[string]error // by GUID
}

func (e *GroupError) Error() string {
	var list []string
	for _, id := range slices.Sorted(maps.Keys(e.VMs)) {
		list = append(list, e.VMs[id].Error())
	}
	return strings.Join(list, "; ")
}

// Unwrap are the VMs' errors.
func (e *GroupError) Unwrap() []error { return slices.Collect(maps.Values(e.VMs)) }

// FailedVMs are the VMs that failed, by GUID.
func (e *GroupError) FailedVMs() map[string]error { return maps.Clone(e.VMs) }

var _ hikae.GroupSnapshotter = (*Provider)(nil)

// How many VMs share a snapshot where nobody says: what a host's own provider keeps beside production slows its volume down, a
// storage's does not.
const (
	groupOnHost  = 4
	groupOffHost = 8
)

func (p *Provider) groupSize() int {
	switch {
	case p.opts.GroupSize > 0:
		return p.opts.GroupSize
	case p.opts.Mode == OffHost:
		return groupOffHost
	}
	return groupOnHost
}

// Group implements [hikae.GroupSnapshotter]: VMs of one host and one procedure whose files lie on a common volume, by that
// volume (R197), at most GroupSize together. A VM that shares nothing is by itself, and so is one that cannot be planned: its
// snapshot says why. Groups have the ids as they were asked for.
func (p *Provider) Group(ctx context.Context, ids []string) ([][]string, error) {
	var list []*member
	for _, id := range ids {
		if slices.ContainsFunc(list, func(m *member) bool { return strings.EqualFold(m.id, id) }) {
			continue
		}
		m := &member{id: id}
		list = append(list, m)
		vm, err := p.planned(ctx, id)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil && p.shares(vm.plan) {
			m.kind = groupKind(vm)
			m.volumes, err = p.volumesOf(ctx, vm)
		}
		if err != nil {
			m.kind, m.volumes = "", nil
		}
	}
	return group(list, p.groupSize()), ctx.Err()
}

// shares: a production checkpoint that is read on its host is the VM's alone.
func (p *Provider) shares(plan *Plan) bool {
	return plan.Procedure != Production || plan.Mode == OffHost
}

// groupKind is what VMs must have in common to be in one snapshot.
func groupKind(vm *planned) string {
	return strings.ToLower(vm.host.Info().Name) + "\n" + string(vm.plan.Procedure) + "\n" + string(vm.plan.Mode)
}

// volumesOf are the volumes, or shares, that a VM's disks lie on, as whoever pins them calls them.
func (p *Provider) volumesOf(ctx context.Context, vm *planned) (names []string, err error) {
	for i := range vm.machine.Disks {
		d := &vm.machine.Disks[i]
		if d.uncovered() != "" {
			continue
		}
		name := volumeOf(d.Path)
		if vm.plan.Procedure == Production {
			on, err := p.pinner(ctx, vm.host, d.Path)
			if err != nil {
				return nil, fmt.Errorf("disk %s: %w", d.Key, err)
			}
			name = on.key()
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// volumeOf is what a Windows path begins with, as far as it names a volume: C:, a cluster's volume, a share.
func volumeOf(path string) string {
	lower := strings.ToLower(path)
	parts := strings.Split(lower, `\`)
	switch {
	case strings.HasPrefix(lower, `\\?\volume`) && len(parts) > 3:
		return strings.Join(parts[:4], `\`)
	case strings.HasPrefix(lower, `\\`) && len(parts) > 3:
		return strings.Join(parts[:4], `\`)
	case len(parts) > 2 && parts[1] == "clusterstorage":
		return strings.Join(parts[:3], `\`)
	}
	return parts[0]
}

// member is a VM that is to be grouped. One without a kind is by itself.
type member struct {
	id      string
	kind    string
	volumes []string
}

// group joins those of a kind that share a volume, directly or by others between them, in the order in which they were given,
// and cuts what is larger than size.
func group(list []*member, size int) (groups [][]string) {
	of := map[*member]*[]*member{} // the set that a member is in
	at := map[string]*member{}     // kind and volume: the first that is there
	for _, m := range list {
		of[m] = &[]*member{m}
		for _, v := range m.volumes {
			key := m.kind + "\n" + v
			first := at[key]
			if m.kind == "" || first == nil {
				at[key] = m
				continue
			}
			join(of, first, m)
		}
	}
	index := map[*member]int{}
	for i, m := range list {
		index[m] = i
	}
	seen := map[*[]*member]bool{}
	for _, m := range list {
		if seen[of[m]] {
			continue
		}
		seen[of[m]] = true
		all := slices.Clone(*of[m])
		slices.SortFunc(all, func(a, b *member) int { return index[a] - index[b] })
		for part := range slices.Chunk(all, max(1, size)) {
			var ids []string
			for _, one := range part {
				ids = append(ids, one.id)
			}
			groups = append(groups, ids)
		}
	}
	return groups
}

func join(of map[*member]*[]*member, a, b *member) {
	to, from := of[a], of[b]
	if to == from {
		return
	}
	*to = append(*to, *from...)
	for _, m := range *from {
		of[m] = to
	}
}

// SnapshotGroup implements [hikae.GroupSnapshotter]. VMs are looked at anew: those that moved to another host meanwhile, or go
// another way now, are pinned beside the others. Where only some fail, their errors are in a *GroupError beside the snapshots of
// the others; any other error leaves none. So it is where ctx ends before all are pinned: no VM has failed by itself then.
func (p *Provider) SnapshotGroup(ctx context.Context, ids []string, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	if opts != nil && opts.Quiescer != nil && len(ids) > 1 {
		return nil, fmt.Errorf("one quiescer cannot freeze %d VMs: %w", len(ids), errors.ErrUnsupported)
	}
	failed := failures{}
	var kinds []string
	parts := map[string][]*planned{}
	for i, id := range ids {
		if slices.ContainsFunc(ids[:i], func(other string) bool { return strings.EqualFold(other, id) }) {
			continue
		}
		vm, err := p.planned(ctx, id)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			failed[strings.ToLower(id)] = err
			continue
		}
		k := groupKind(vm)
		if len(parts[k]) == 0 {
			kinds = append(kinds, k)
		}
		parts[k] = append(parts[k], vm)
	}
	var out []hikae.Snapshot
	for _, k := range kinds {
		snaps, err := p.strategyOf(parts[k][0].plan).pin(ctx, parts[k], opts)
		out = append(out, snaps...)
		if err != nil && ctx.Err() != nil {
			return nil, errors.Join(context.Cause(ctx), err, releaseSnapshots(ctx, out))
		}
		failed.join(parts[k], err)
	}
	return out, failed.err()
}

// join takes what a strategy says of its VMs: of some, or of all of them. What it says beside the VMs' own errors, as of shadow copies
// that could not be taken back, is every VM's.
func (f failures) join(vms []*planned, err error) {
	own, rest := map[string]error{}, []error(nil)
	for _, one := range apart(err) {
		if some, ok := one.(*GroupError); ok {
			maps.Copy(own, some.VMs)
			continue
		}
		rest = append(rest, one)
	}
	beside := errors.Join(rest...)
	for _, vm := range vms {
		id := vm.machine.ID
		switch {
		case own[id] != nil:
			f[id] = errors.Join(own[id], beside)
		case beside != nil:
			f.add(vm, beside)
		}
	}
}

// tell tells a person what stops nothing.
func (p *Provider) tell(vm, format string, args ...any) {
	if p.opts.Warn != nil {
		p.opts.Warn(vm, fmt.Sprintf(format, args...))
	}
}
