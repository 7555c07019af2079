package hyperv

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae"
)

// kindBase are the reference points that the last point of a VM rests on, while the next point is made durable that has none of its own:
// it was read by a procedure that tracks nothing, or the host refused. Nothing in that point tells later whether it was committed, so
// a sweep lets go of those that no point of the repository names, and the effect stays for the others.
const kindBase = "hyperv.base"

// pastBase is the base that a point leaves behind which has no reference point of its own. After Commit nothing is built on it.
type pastBase struct {
	p   *Provider
	vm  string
	ids []string // of reference points

	done func(context.Context) error // nil: settled, or nothing to do
}

// leaveBase writes down that a point is going to be durable after which nothing is built on these reference points.
func (p *Provider) leaveBase(ctx context.Context, j hikae.Journal, vm *planned, repository string, ids []string) (*pastBase, error) {
	b := &pastBase{p: p, vm: vm.machine.ID, ids: ids}
	if len(ids) == 0 {
		return b, nil
	}
	var err error
	b.done, err = p.intend(ctx, j, kindBase, vm, map[string]string{"base": strings.Join(ids, "\n")}, repository)
	return b, err
}

// commit lets them go.
func (b *pastBase) commit(ctx context.Context) error {
	if b == nil || b.done == nil {
		return nil
	}
	if err := b.p.dropReferences(ctx, b.vm, b.ids); err != nil {
		return err
	}
	return b.abandon(ctx)
}

// abandon leaves them as they are: the next increment is built on them.
func (b *pastBase) abandon(ctx context.Context) error {
	if b == nil || b.done == nil {
		return nil
	}
	if err := b.done(ctx); err != nil {
		return err
	}
	b.done = nil
	return nil
}

// undoBase lets go of what no point names.
func undoBase(ctx context.Context, p *Provider, e hikae.Effect, keep []hikae.ChangeID) error {
	if !isGUID(e.VM) {
		return fmt.Errorf("effect %s: VM %.40q: %w", e.ID, e.VM, fs.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.CheckpointLimit)
	defer cancel()
	vm, kept := strings.ToLower(e.VM), referencesOf(keep)
	var named, free []string
	for _, id := range linesOf(e.Facts["base"]) {
		if among(kept, id) {
			named = append(named, id)
		} else {
			free = append(free, id)
		}
	}
	if err := p.sweepReferences(ctx, vm, free); err != nil {
		return err
	}
	left, err := p.referencesNamed(ctx, vm, named)
	if err != nil || len(left) == 0 {
		return err
	}
	var ids []string
	for _, r := range left {
		ids = append(ids, r.ID)
	}
	return &PendingError{VM: vm, What: "reference points " + strings.Join(ids, ", ") + ", which points of the repository name",
		Hint: "they go with the next backup of this VM that is an increment, or when those points are forgotten"}
}

// basesOf are the reference points that change ids rest on, as far as they are this VM's, and were made for this repository: a point that
// was copied from another one names that one's, and they are not ours to let go of here.
func basesOf(vm, repository string, points ...map[string]hikae.ChangeID) (ids []string) {
	for _, point := range points {
		for _, id := range point {
			if m, err := parseMoment(id); err == nil && m.vm == vm && m.repo == repository && !among(ids, m.ref) {
				ids = append(ids, m.ref)
			}
		}
	}
	slices.Sort(ids)
	return ids
}
