package hyperv

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae"
)

// writer2012 is procedure 1, of 2008 R2 and 2012. What we call, and what the host does by itself meanwhile:
//
//	reach    requester on the host; what the writer offers
//	fresh    the VMs' disks, once more: minutes may have gone by since the plan
//	intend   journal
//	take     R041  the host's VSS is asked for a backup of the VMs
//	         R042–R047  writer, integration components, the guest's own VSS, internal snapshot, the guest goes on
//	         R048  the host's provider takes the external snapshot. The guest has written since: R053's gap
//	         R049, R054–R059  auto-recovery inside the external snapshot closes that gap: the writer rolls the VM's disks in it
//	               back to the internal snapshot. This is what takes minutes (R061)
//	look     and once more: what the VM wrote to when the set was made must be what is read
//	present  R050, R051  read on the host, or mounted elsewhere
//	adopt    configuration and disks from the set. The VM itself stays on the production volume (R060)
//	…        disks are read
//	finish   the writer is told
//	remove   R052
type writer2012 struct{ p *Provider }

func (w writer2012) pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	v, failed := newSet(w.p, vms, Writer2012, opts), failures{}
	v.after = func(ctx context.Context) error { return w.end(ctx, v) }
	out, err := w.take(ctx, v, vms, failed)
	if err != nil || len(out) == 0 {
		return nil, errors.Join(err, failed.err(), v.abandon(ctx))
	}
	return out, failed.err()
}

func (w writer2012) take(ctx context.Context, v *vssSet, vms []*planned, failed failures) ([]hikae.Snapshot, error) {
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
	if err := v.intend(ctx, vms, nil); err != nil {
		return nil, err
	}
	if err := v.take(ctx, vms); err != nil {
		return nil, err
	}
	v.look(ctx, vms)
	if err := v.present(ctx, vms); err != nil {
		return nil, err
	}
	return v.adopt(ctx, vms, adoption{reached: w.reached}, failed), nil
}

// end: the shadow copies go with the last VM of the set, after the writer was told. Nothing is merged: there was no checkpoint.
func (w writer2012) end(ctx context.Context, v *vssSet) error {
	told := v.finish(ctx)
	if err := v.remove(ctx); err != nil {
		return errors.Join(told, err)
	}
	if told != nil {
		v.p.tell("", "the shadow copies are deleted, but: %v", told)
	}
	return v.settle(ctx)
}

// reached: a running VM's disks are consistent in the set only because the writer rolled them back inside of it. Where it did
// not, they are what they were when the volume snapshot was taken, after the guest had gone on (R053).
func (w writer2012) reached(vm *planned, o SetOutcome, off bool) (verdict, error) {
	got, err := writerVerdict(vm, o, off)
	if err == nil && o.Method == MethodOnline && !o.Recovered {
		got.level = hikae.Crash
		got.warn(fmt.Sprintf("the writer says nothing of auto-recovery inside the shadow copy (R054): what the VM wrote after its own snapshot is in it, as after a power cut%s", hintOf(o)))
	}
	return got, err
}
