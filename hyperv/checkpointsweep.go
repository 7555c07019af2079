package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// undoCheckpoint removes a checkpoint that is proven to be its session's, wherever its VM is now, and looks after what the host merges
// then: the effect stays for as long as that is pending. One that is being made is waited for. Where there are only some that may be
// its session's, none is touched, and the effect stays until none of them is left.
func undoCheckpoint(ctx context.Context, p *Provider, e hikae.Effect, _ []hikae.ChangeID) error {
	k, err := markedOf(p, e)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, p.opts.CheckpointLimit)
	defer cancel()
	if err := k.appear(bounded); err != nil {
		return err
	}
	made, err := k.children(bounded)
	if err != nil {
		return err
	}
	k.made = append(k.made, made...)
	if err := k.sweep(bounded); err != nil {
		return err
	}
	bounded, cancel = context.WithTimeoutCause(ctx, sweepMerge, errSweepOver)
	defer cancel()
	return k.merged(bounded)
}

var errSweepOver = fmt.Errorf("a sweep waits no longer than %v: %w", sweepMerge, context.DeadlineExceeded)

// sweep removes the checkpoint.
func (k *marked) sweep(ctx context.Context) error {
	gone, err := k.gone(ctx)
	if err == nil {
		err = k.vanish(ctx)
	}
	if err != nil {
		return err
	}
	if !gone {
		k.p.swept(k.vm, "checkpoint %q (%s)", k.name, k.id)
	}
	return nil
}

// markedOf is the checkpoint of an effect.
func markedOf(p *Provider, e hikae.Effect) (*marked, error) {
	k := &marked{p: p, vm: strings.ToLower(e.VM), mark: e.Facts["mark"], id: e.Facts["checkpoint"], job: workID{e.Facts["job"], e.Facts["jobHost"]},
		before: linesOf(e.Facts["before"]), made: linesOf(e.Facts["files"])}
	if !goodMark.MatchString(k.mark) || !isGUID(e.VM) {
		return nil, fmt.Errorf("effect %s: mark %.40q of VM %.40q: %w", e.ID, k.mark, e.VM, fs.ErrInvalid)
	}
	var err error
	if k.begun, err = time.Parse(time.RFC3339, e.Facts["begun"]); err != nil {
		return nil, fmt.Errorf("effect %s: begun at %.40q: %w", e.ID, e.Facts["begun"], fs.ErrInvalid)
	}
	k.name = checkpointName + k.mark
	return k, nil
}

// appear finds out which checkpoint is its session's, where that died before it knew. Listings may lag behind jobs, so one that was asked
// for just now is looked for longer. Where nothing is proven, and there are some that may be it, it is an *UnprovenError.
func (k *marked) appear(ctx context.Context) error {
	until, err := k.arrived(ctx)
	for wait := firstPause; err == nil && k.id == ""; wait = min(2*wait, listingWait) {
		var h *Host
		if h, err = k.p.site.Owner(ctx, k.vm); errors.Is(err, fs.ErrNotExist) {
			return nil // gone with its VM
		}
		if err == nil {
			err = k.byJob(ctx)
		}
		if err == nil && k.id == "" {
			_, err = k.look(ctx, h)
		}
		if err == nil && k.id == "" && time.Now().After(until) {
			return k.unproven(ctx, h)
		}
		if err == nil && k.id == "" {
			err = pause(ctx, wait)
		}
	}
	return err
}

// byJob asks the job that our own call started what it made. Hosts forget jobs after a while: then it proves nothing.
func (k *marked) byJob(ctx context.Context) error {
	h, out, err := k.job.end(ctx, k.p)
	if err != nil || out == nil {
		return err
	}
	return k.resulted(ctx, h, out)
}

// sweepListing is how long a checkpoint may be missing in listings when a sweep comes: a start takes time of its own.
const sweepListing = 5 * time.Second

// arrived waits until no checkpoint of the VM is being made: ours may be the one. It returns until when one that was made may be missing
// in listings. Where the host is not at work and no job is known, the session most likely died before it asked: jobs take longer than
// their first answer, which would have been written down.
func (k *marked) arrived(ctx context.Context) (listed time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sweepMerge, errSweepOver)
	defer cancel()
	since, late := k.begun, time.Second
	if k.job.id != "" {
		late = sweepListing
	}
	for wait := firstPause; ; wait = min(2*wait, pollEvery) {
		m, err := k.p.machineNow(ctx, k.vm)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !m.doing(statusSnapshotting, statusWaiting) {
			return since.Add(late), nil
		}
		if err != nil {
			return since, err
		}
		since, late = time.Now(), sweepListing
		if paused := pause(ctx, wait); paused != nil {
			return since, &PendingError{VM: k.vm, What: "a checkpoint is being made, which may be " + k.name, Err: paused}
		}
	}
}

// children are the files that a checkpoint which is listed made: those that the VM writes to in place of the checkpoint's own.
func (k *marked) children(ctx context.Context) ([]string, error) {
	h, err := k.p.site.Owner(ctx, k.vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	in, err := k.look(ctx, h)
	if err != nil || in == nil {
		return nil, err
	}
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return nil, err
	}
	frozen, err := h.disks(ctx, ref)
	if err != nil {
		return nil, err
	}
	m, err := h.Machine(ctx, k.vm)
	if err != nil {
		return nil, err
	}
	return childrenOf(m, frozen), nil
}

// childrenOf are the files of a VM whose parents are those of a checkpoint.
func childrenOf(m *Machine, frozen []Disk) (files []string) {
	for i := range m.Disks {
		if slices.ContainsFunc(frozen, func(d Disk) bool { return d.Path != "" && strings.EqualFold(d.Path, m.Disks[i].ParentPath) }) {
			files = append(files, m.Disks[i].Path)
		}
	}
	return files
}
