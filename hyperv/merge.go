package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// What a VM's second OperationalStatus says that its host is doing.
const (
	statusSnapshotting = 32768
	statusDeleting     = 32770
	statusWaiting      = 32771 // to begin
	statusMerging      = 32772
)

func (m *Machine) doing(what ...uint16) bool {
	return len(m.Status) > 1 && slices.ContainsFunc(m.Status[1:], func(s uint16) bool { return slices.Contains(what, s) })
}

// merged waits until the host has merged the files that a checkpoint made, which it does by itself: nothing here ever touches
// them. A *PendingError says that a merge goes on, or failed, when MergeLimit or ctx is over.
func (k *marked) merged(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, k.p.mergeLimit(), fmt.Errorf("no end within %v: %w", k.p.mergeLimit(), context.DeadlineExceeded))
	defer cancel()
	var left []string
	for wait := firstPause; ; wait = min(2*wait, pollEvery) {
		now, busy, err := k.unmerged(ctx)
		if err == nil && len(now) == 0 && !busy {
			return nil
		}
		if err == nil {
			left = now // of the last look that got through: the limit may cut one short
		}
		if paused := pause(ctx, wait); paused != nil {
			return &PendingError{VM: k.vm, What: fmt.Sprintf("the merge of checkpoint %q", k.name), Err: errors.Join(paused, err), Files: left,
				Hint: "the host merges by itself; where it does not end, see its log Hyper-V-VMMS-Admin (events 19070, 19080, 19090, 19100): too little space, a lock of a virus scanner, rights of the folder"}
		}
	}
}

// unmerged are the checkpoint's files that are still a part of a disk, and whether the host is at work on the VM. A VM that is gone has
// none. Where the host cannot read a file, what is below it is not known, and that is an error.
func (k *marked) unmerged(ctx context.Context) (left []string, busy bool, err error) {
	h, err := k.p.site.Owner(ctx, k.vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	m, err := h.Machine(ctx, k.vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil // it is just leaving
	}
	if err != nil {
		return nil, false, err
	}
	for _, d := range m.Disks {
		if len(k.made) == 0 || k.leftOut(&d) {
			continue // nothing of the checkpoint's is there
		}
		chain, problem, err := h.wholeChain(ctx, d)
		if err != nil {
			return nil, false, err
		}
		if problem != "" {
			return nil, false, fmt.Errorf("disk %s: what is below %s is not known: %s", d.Key, chain[len(chain)-1], problem)
		}
		for _, file := range chain {
			if slices.ContainsFunc(k.made, func(f string) bool { return strings.EqualFold(f, file) }) {
				left = append(left, file)
			}
		}
	}
	return left, m.doing(statusDeleting, statusMerging), nil
}

// leftOut: no checkpoint covered the disk.
func (k *marked) leftOut(d *Disk) bool {
	return k.planned != nil && slices.ContainsFunc(k.planned.machine.Disks, func(was Disk) bool { return was.place() == d.place() && was.uncovered() != "" })
}

const maxChain = 128 // files of one disk

// chainOf are the files of a disk as its host tells them, the one that is written to first. A file that its host cannot read ends
// the chain, and is in it.
func (h *Host) chainOf(ctx context.Context, d Disk) (files []string, err error) {
	files, _, err = h.wholeChain(ctx, d)
	return files, err
}

// wholeChain is chainOf for who has to know whether the chain is whole: problem says why its last file could not be read, and is empty
// where it could.
func (h *Host) wholeChain(ctx context.Context, d Disk) (files []string, problem string, err error) {
	if d.Physical || d.Path == "" {
		return nil, "", nil
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	for files = []string{d.Path}; d.ParentPath != ""; files = append(files, d.Path) {
		if len(files) == maxChain {
			return nil, "", fmt.Errorf("%s has more than %d parents", files[0], maxChain)
		}
		d = Disk{Path: d.ParentPath}
		if err := h.measure(ctx, &d); err != nil {
			return nil, "", err
		}
	}
	return files, d.Problem, nil
}
