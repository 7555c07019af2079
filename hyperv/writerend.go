package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// finish tells the writer which VMs' backups are good, once.
func (v *vssSet) finish(ctx context.Context) error {
	if v.set == nil || v.finished {
		return nil
	}
	if err := v.set.Finish(ctx, maps.Clone(v.good)); err != nil {
		return fmt.Errorf("tell the writer of %s how the backup went: %w", v.host.Info().Name, err)
	}
	v.finished = true
	return nil
}

// remove deletes the shadow copies: first where they are mounted, then on the host. A requester keeps its set for as long as it is
// connected, and one whose link is lost never answers again: one that cannot delete its set is let go of, which ends the set too, and
// another looks for what is left by the mark. It may be called again after an error.
func (v *vssSet) remove(ctx context.Context) error {
	if err := v.unmount(ctx); err != nil {
		return errors.Join(err, v.disown())
	}
	var first error
	if v.set != nil {
		err := v.set.Delete(ctx)
		if err == nil {
			v.set = nil
			return nil
		}
		first = errors.Join(fmt.Errorf("the set of shadow copies %s: %w", v.set.ID(), err), v.disown())
	}
	if !v.stray {
		return nil
	}
	if err := v.removeStray(ctx); err != nil {
		return errors.Join(first, err)
	}
	if first != nil {
		v.p.tell("", "the shadow copies are deleted, but not at once: %v", first)
	}
	return nil
}

func (v *vssSet) unmount(ctx context.Context) error {
	if v.mounted == nil {
		return nil
	}
	if err := v.mounted.Delete(ctx); err != nil {
		return fmt.Errorf("the volume snapshot %s, where it is read: %w", v.mounted.ID(), err)
	}
	v.mounted = nil
	return nil
}

// disown lets go of the requester, and with it of the set.
func (v *vssSet) disown() error {
	if v.set != nil {
		v.set, v.stray = nil, true
	}
	return v.leaveHost()
}

// removeStray deletes by its mark what no requester of ours has. One that does not do so is not asked twice: its link may be lost.
func (v *vssSet) removeStray(ctx context.Context) error {
	var errs []error
	for fresh := v.requester == nil; ; fresh = true {
		err := v.deleteMarked(ctx)
		if err == nil {
			v.stray = false
			return nil
		}
		errs = append(errs, err, v.leaveHost())
		if fresh {
			return errors.Join(errs...)
		}
	}
}

func (v *vssSet) deleteMarked(ctx context.Context) error {
	if v.requester == nil {
		if err := v.connect(ctx); err != nil {
			return err
		}
	}
	if err := v.requester.DeleteSet(ctx, v.mark); err != nil {
		return fmt.Errorf("what is left of set %s on %s: %w", v.mark, v.host.Info().Name, err)
	}
	return nil
}

// settle ends the connection to the host, and says that the set is gone.
func (v *vssSet) settle(ctx context.Context) error {
	err := v.leaveHost()
	if told := v.done(ctx); told != nil {
		return errors.Join(told, err)
	}
	v.done = nothing
	return err
}

// leaveHost ends the connections to the host. Those that could not be ended are ended by the next call.
func (v *vssSet) leaveHost() error {
	if v.requester != nil {
		v.parting, v.requester = append(v.parting, v.requester), nil
	}
	var errs []error
	v.parting = slices.DeleteFunc(v.parting, func(r Requester) bool {
		err := r.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("requester on %s: %w", v.host.Info().Name, err))
		}
		return err == nil
	})
	return errors.Join(errs...)
}

// abandon takes back a set that no VM is going to be read from. One that was made has the procedure's own end: its checkpoints are
// merged like those of any other, and that is watched. Of one whose making failed it may be open whether there is a set. What cannot be
// taken back stays in the journal.
func (v *vssSet) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setUndo)
	defer cancel()
	for _, free := range v.free {
		defer free()
	}
	clear(v.good)
	if v.set != nil {
		_, err := v.p.tellPending(v.after(ctx))
		return err
	}
	if err := v.remove(ctx); err != nil {
		return err
	}
	return v.settle(ctx)
}
