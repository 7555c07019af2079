package hyperv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// children learns which files the writer's own checkpoints made (R066): those that VMs write into now and did not before, but for
// those of persons' checkpoints. They are written down, so that a later start can see whether the host has merged them. That they cannot
// be learned stops nothing here.
func (v *vssSet) children(ctx context.Context, vms []*planned) {
	ctx, cancel := v.together(ctx, vms)
	defer cancel()
	var files []string
	for _, vm := range vms {
		id := vm.machine.ID
		if err := v.then[id].err; err != nil {
			v.p.tell(id, "which files the backup checkpoint made could not be learned, and their merge is not going to be watched: %v", err)
			continue
		}
		for i := range vm.machine.Disks {
			v.made[id] = append(v.made[id], v.then[id].writers(&vm.machine.Disks[i])...)
		}
		files = append(files, v.made[id]...)
	}
	if len(files) == 0 {
		return
	}
	first := v.done
	if err := v.intend(ctx, vms, files); err != nil {
		v.p.tell("", "which files the backup checkpoints made is not in the journal: %v", err)
		return
	}
	if err := first(ctx); err != nil {
		v.p.tell("", "the journal keeps an effect of set %s twice: %v", v.mark, err)
	}
}

// isChild goes by the ending that checkpoints' files have: .avhdx, .avhd.
func isChild(path string) bool {
	lower := strings.ToLower(path)
	return strings.HasSuffix(lower, ".avhdx") || strings.HasSuffix(lower, ".avhd")
}

// merged waits until the host has merged the backup checkpoints of a set's VMs. A *PendingError says that one goes on, or failed.
func (v *vssSet) merged(ctx context.Context, vms []*planned) error {
	var errs []error
	for _, vm := range vms {
		errs = append(errs, v.p.writerMerged(ctx, vm.machine.ID, v.made[vm.machine.ID]))
	}
	return errors.Join(errs...)
}

// writerMerged waits for one VM, wherever it runs now.
func (p *Provider) writerMerged(ctx context.Context, vm string, made []string) error {
	return (&marked{p: p, vm: vm, name: "of the host's writer", made: made}).merged(ctx)
}

// tellPending takes what is pending out of an error: the backup is good, and what is told stays in the journal for a sweep.
func (p *Provider) tellPending(err error) (warnings []string, rest error) {
	var errs []error
	for _, one := range apart(err) {
		if pending, ok := one.(*PendingError); ok {
			p.tell(pending.VM, "%v", pending)
			warnings = append(warnings, pending.Error())
			continue
		}
		errs = append(errs, one)
	}
	return warnings, errors.Join(errs...)
}

// apart takes apart what was joined, and nothing that says more than its parts.
func apart(err error) (list []error) {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if _, group := err.(*GroupError); group || !ok || err.Error() != errors.Join(joined.Unwrap()...).Error() {
		return []error{err}
	}
	for _, one := range joined.Unwrap() {
		list = append(list, apart(one)...)
	}
	return list
}

func (p *Provider) machineNow(ctx context.Context, id string) (*Machine, error) {
	h, err := p.site.Owner(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := h.Machine(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Info().Name, err)
	}
	return m, nil
}

func (p *Provider) mergeLimit() time.Duration {
	if p.opts.MergeLimit > 0 {
		return p.opts.MergeLimit
	}
	return time.Hour
}
