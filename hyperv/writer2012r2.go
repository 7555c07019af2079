package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae"
)

// writer2012R2 is procedure 2, of 2012 R2. What we call, and what the host does by itself meanwhile:
//
//	reach    requester on the host; what the writer offers
//	fresh    the VMs' disks, once more: minutes may have gone by since the plan
//	intend   journal
//	take     R064  the host's VSS, the writer, the integration components, the guest's writers
//	         R065–R067  backup checkpoint: the VM goes on writing into <disk>_<GUID>.avhdx
//	         R068–R071  auto-recovery checkpoint: <disk>-AutoRecovery.avhdx, in a chain of its own
//	         R072–R074  internal snapshot, by the integration services' provider
//	         R075  auto-recovery, by that checkpoint: before the volume snapshot
//	         R076  the host's provider takes the volume snapshot
//	         R077  the auto-recovery checkpoint is merged
//	look     the VMs' disks, once more: but for the writer's own children they are what was planned
//	children the files of R066, for who watches their merge
//	present  R078  read on the host, or mounted elsewhere
//	adopt    disks from the set: of each, the auto-recovery file where the set has it, as that is what was rolled back
//	…        disks are read
//	finish   the writer is told; with this the host begins to merge the backup checkpoint
//	remove   R079  the volume snapshot is deleted …
//	merged   R079  … and the backup checkpoint merged: by the host, which we watch and never help
type writer2012R2 struct{ p *Provider }

func (w writer2012R2) pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	v, failed := newSet(w.p, vms, Writer2012R2, opts), failures{}
	out, in, err := w.take(ctx, v, vms, failed)
	v.after = func(ctx context.Context) error { return w.end(ctx, v, in) }
	if err != nil || len(out) == 0 {
		return nil, errors.Join(err, failed.err(), v.abandon(ctx))
	}
	return out, failed.err()
}

func (w writer2012R2) take(ctx context.Context, v *vssSet, vms []*planned, failed failures) (out []hikae.Snapshot, in []*planned, err error) {
	if vms = v.occupy(vms, failed); len(vms) == 0 {
		return nil, nil, nil
	}
	if vms = v.unstale(ctx, vms, failed); len(vms) == 0 {
		return nil, nil, nil
	}
	if err := v.reach(ctx); err != nil {
		return nil, nil, err
	}
	if vms = v.choose(vms, failed); len(vms) == 0 {
		return nil, nil, nil
	}
	if vms, err = v.fresh(ctx, vms, failed); err != nil || len(vms) == 0 {
		return nil, nil, err
	}
	if err := v.intend(ctx, vms, nil); err != nil {
		return nil, nil, err
	}
	if err := v.take(ctx, vms); err != nil {
		return nil, vms, err
	}
	v.look(ctx, vms)
	v.children(ctx, vms)
	if err := v.present(ctx, vms); err != nil {
		return nil, vms, err
	}
	return v.adopt(ctx, vms, adoption{reached: w.reached, recovery: true}, failed), vms, nil
}

// unstale leaves VMs out beside whose disks lies the file of an auto-recovery checkpoint that an earlier backup left: the writer
// fails on it (0x800423FB), and with one VM all of the set. Where the host's files cannot be reached the writer itself says so.
func (v *vssSet) unstale(ctx context.Context, vms []*planned, failed failures) (in []*planned) {
	store, err := v.p.site.Store(ctx, v.host)
	if err != nil || store == nil {
		return vms
	}
	for _, vm := range vms {
		file, err := staleFile(ctx, store, v.host, vm.machine)
		if err != nil || file == "" {
			in = append(in, vm)
			continue
		}
		v.leaveOut(vm, fmt.Errorf("%s is left from an earlier backup, and the host's writer cannot make another beside it: see that no disk uses it, and remove it", file), failed)
	}
	return in
}

func staleFile(ctx context.Context, files Files, h *Host, m *Machine) (string, error) {
	for _, d := range m.Disks {
		if d.uncovered() != "" {
			continue
		}
		chain, err := h.chainOf(ctx, d)
		if err != nil {
			return "", err
		}
		for _, file := range recoveryFiles(chain) {
			img, err := files.Open(ctx, file)
			if err == nil {
				return file, img.Close()
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
	}
	return "", nil
}

// end: the writer is told, the volume snapshot deleted, and only then the host merges the backup checkpoints. A merge that
// outlasts its limit is the host's: the backup is good, and the effect stays for a sweep to look at (R079).
func (w writer2012R2) end(ctx context.Context, v *vssSet, vms []*planned) error {
	told := v.finish(ctx)
	if err := v.remove(ctx); err != nil {
		return errors.Join(told, err)
	}
	if told != nil {
		v.p.tell("", "the shadow copies are deleted, but: %v", told)
	}
	if err := v.merged(ctx, vms); err != nil {
		return errors.Join(err, v.leaveHost())
	}
	return v.settle(ctx)
}

// reached: auto-recovery ran before the volume snapshot was taken, so a running VM without it is in the set as it was when
// the backup checkpoint was made, before its own writers had ended their part. Hosts of 2016 and later have VMs stand still
// instead, those of 2012 R2's time too.
func (w writer2012R2) reached(vm *planned, o SetOutcome, off bool) (verdict, error) {
	got, err := writerVerdict(vm, o, off)
	if err == nil && o.Method == MethodOnline && !o.Recovered && vm.host.Info().Build < build2016 {
		got.level = hikae.Crash
		got.warn(fmt.Sprintf("the writer says nothing of auto-recovery before the volume snapshot (R075): the VM is in it as after a power cut%s", hintOf(o)))
	}
	return got, err
}
