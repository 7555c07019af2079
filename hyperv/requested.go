package hyperv

import (
	"context"
	"errors"

	"github.com/hikae/hikae"
)

// requested is procedure 4: the requester alone, and no checkpoint of ours (R102). What we call, and what the host does by
// itself meanwhile:
//
//	reach    requester on the host; what the writer offers
//	fresh    the VMs' disks, once more: minutes may have gone by since the plan
//	intend   journal
//	take     R100  the requester has the host's VSS make the set; R101  the writer quiesces guests by their integration services
//	look     the VMs' disks, once more: but for the writer's own children they are what was planned
//	children files that the writer's own checkpoints made, on hosts where it makes some
//	present  where it is read
//	adopt    R103  the disk files and the configuration are read from the set
//	…        disks are read
//	finish   the writer is told
//	remove   the set is deleted
//
// What the writer does with files of its own meanwhile depends on the host's generation, so disks are looked for in the set as
// its component lists them.
type requested struct{ p *Provider }

func (r requested) pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	v, failed := newSet(r.p, vms, Requested, opts), failures{}
	var in []*planned
	v.after = func(ctx context.Context) error { return r.end(ctx, v, in) }
	out, err := r.take(ctx, v, vms, &in, failed)
	if err != nil || len(out) == 0 {
		return nil, errors.Join(err, failed.err(), v.abandon(ctx))
	}
	return out, failed.err()
}

func (r requested) take(ctx context.Context, v *vssSet, vms []*planned, in *[]*planned, failed failures) ([]hikae.Snapshot, error) {
	if vms = v.occupy(vms, failed); len(vms) == 0 {
		return nil, nil
	}
	if err := v.reach(ctx); err != nil {
		return nil, err
	}
	if vms = v.choose(vms, failed); len(vms) == 0 {
		return nil, nil
	}
	vms, err := v.fresh(ctx, vms, failed)
	if err != nil || len(vms) == 0 {
		return nil, err
	}
	*in = vms
	if err := v.intend(ctx, vms, nil); err != nil {
		return nil, err
	}
	if err := v.take(ctx, vms); err != nil {
		return nil, err
	}
	v.look(ctx, vms)
	if v.host.Info().Build >= build2012R2 {
		v.children(ctx, vms)
	}
	if err := v.present(ctx, vms); err != nil {
		return nil, err
	}
	return v.adopt(ctx, vms, adoption{reached: writerVerdict, recovery: v.host.Info().Build >= build2012R2}, failed), nil
}

// end: what the writer merges after a backup is its own, and watched where the host has checkpoints of that kind.
func (r requested) end(ctx context.Context, v *vssSet, vms []*planned) error {
	told := v.finish(ctx)
	if err := v.remove(ctx); err != nil {
		return errors.Join(told, err)
	}
	if told != nil {
		v.p.tell("", "the set of shadow copies is deleted, but: %v", told)
	}
	if v.host.Info().Build >= build2012R2 {
		if err := v.merged(ctx, vms); err != nil {
			return errors.Join(err, v.leaveHost())
		}
	}
	return v.settle(ctx)
}
