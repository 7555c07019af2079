package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// judge says what the ledger knows of a disk of the snapshot, or why its changes are not tracked. Everything is the
// snapshot's: the running VM has another change id by now.
func (s *snapshot) judge(d Disk, below *snapshotTree) pinnedDisk {
	p := pinnedDisk{Disk: d, now: moment{
		at: s.node.created.UTC(), disk: d.Key, file: fileOf(d.File), first: d.Size, host: s.was.release, number: s.node.number,
		on: below.current, size: d.Size, restored: restoredMark(s.config), vm: s.was.identity(s.client),
	}}
	id, err := parseServerID(d.ChangeID)
	switch {
	case len(firstClass([]Disk{d})) > 0:
		p.blind = "it is a first-class disk: its tracking belongs to who attaches it"
	case d.ChangeID == "" && s.untracked != "":
		p.blind = s.untracked
	case d.ChangeID == "":
		p.blind = "the server tracks no changes of it"
	case err != nil:
		p.blind = err.Error()
	case s.was.release == (release{}):
		p.blind = "the release of its host is not known, and some tell changes wrong"
	}
	p.now.change = id
	if past, err := parseMoment(s.opts.Since[d.Key]); err == nil && past.change.uuid == id.uuid {
		p.now.first = past.first
	}
	return p
}

// Changed implements [hikae.Snapshot].
func (s *snapshot) Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		d, ok := s.disks[key]
		if !ok {
			yield(pipe.Extent{}, fmt.Errorf("disk %q of VM %s: %w", key, s.ref.Value, fs.ErrNotExist))
			return
		}
		list, err := s.changes(ctx, d, since)
		if err != nil {
			yield(pipe.Extent{}, fmt.Errorf("disk %s: %w", key, err))
			return
		}
		cover(list, d.Size, pipe.Unchanged, yield)
	}
}

// changes are the ranges that changed since a moment, in order.
func (s *snapshot) changes(ctx context.Context, d pinnedDisk, since hikae.ChangeID) ([]pipe.Extent, error) {
	if since == "" {
		return []pipe.Extent{{Len: d.Size, Kind: pipe.Data}}, nil
	}
	past, err := parseMoment(since)
	if err != nil {
		return nil, lost("the base point's change id cannot be used: %v", err)
	}
	if d.blind != "" {
		return nil, lost("%s", d.blind)
	}
	if err := d.now.follows(past, s.below, filesOf(d.Virtual)); err != nil {
		return nil, err
	}
	if err := s.revertedSince(ctx, past.at); err != nil {
		return nil, err
	}
	return s.client.changedAreas(ctx, s.ref, s.node.ref, d.Disk, past.change.String())
}

// revertedSince asks the server, once for all disks, whether it remembers a revert. Where it cannot be asked, a VM without
// snapshots is believed by what its tree of snapshots and its disk's files say, and no other.
func (s *snapshot) revertedSince(ctx context.Context, since time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.reverts[since]; ok {
		return known
	}
	why, err := s.client.revertTask(ctx, s.ref, s.recent, since)
	switch {
	case (cannot(err) || errors.Is(err, errNoHistory)) && s.below.current != "":
		err = lost("the VM stands on snapshot %s, and whether it was reverted to that since the base point is not known: %v", s.below.current, err)
	case cannot(err) || errors.Is(err, errNoHistory):
		err = nil
	case err != nil:
		return err // it is asked again for the next disk
	case why != "":
		err = lost("%s", why)
	}
	s.reverts[since] = err
	return err
}

const maxAnswers = 1 << 16 // for one disk

// changedAreas asks what of a disk changed between a change id and a snapshot, or with "*" what of it was ever written. One
// answer covers a part of a large disk, so it is asked until the end is reached; the list is in order, merged, aligned
// outward and clipped.
func (c *Client) changedAreas(ctx context.Context, vm, snap types.ManagedObjectReference, d Disk, since string) ([]pipe.Extent, error) {
	all := newAreas(d.Size)
	for off, n := int64(0), 0; off < d.Size; n++ {
		if n == maxAnswers {
			return nil, lost("the server's answers end after %d bytes each: %d of them covered %d of %d bytes", off/maxAnswers, n, off, d.Size)
		}
		res, err := methods.QueryChangedDiskAreas(ctx, c.vim, &types.QueryChangedDiskAreas{
			This: vm, Snapshot: &snap, DeviceKey: d.Device, StartOffset: off, ChangeId: since,
		})
		if err != nil {
			return nil, trackingError(err, off)
		}
		info := res.Returnval
		switch {
		case info.StartOffset != off:
			return nil, lost("the server was asked about changes from %d on, and answered from %d on", off, info.StartOffset)
		case info.Length <= 0:
			return nil, lost("the server's answer about changes from %d on covers nothing", off)
		}
		for _, a := range info.ChangedArea {
			if err := all.add(a.Start, a.Length); err != nil {
				return nil, err
			}
		}
		if info.Length >= d.Size-off {
			break
		}
		off += info.Length
	}
	return all.done(), nil
}

// trackingError tells what the server cannot know from what is wrong with the question.
//
//	cbt.noTrack            the disk was not tracked at that time
//	cbt.noEpoch            the change id is of another tracking than today's
//	cbt.cannotGetChanges   the file with the changes is damaged
//	InvalidArgument        the question is wrong: that is ours, and not hidden behind reading everything
func trackingError(err error, off int64) error {
	if bad, ok := faultAs[*types.InvalidArgument](err); ok {
		return fmt.Errorf("query changes from %d on: the server does not take %q: %w", off, bad.InvalidProperty, err)
	}
	for key, why := range map[string]string{
		"cbt.notrack":          "the disk was not tracked then",
		"cbt.noepoch":          "the change id belongs to an earlier tracking of the disk",
		"cbt.cannotgetchanges": "the file that holds the changes is damaged",
	} {
		if saysOf(err, key) {
			return lost("%s (the server says: %v)", why, err)
		}
	}
	if isFault[*types.FileFault](err) || cannot(err) {
		return lost("the server cannot tell changes from %d on: %v", off, err)
	}
	return fmt.Errorf("query changes from %d on: %w", off, err)
}
