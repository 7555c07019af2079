package hyperv

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae"
)

// A host keeps its record of what changed on a disk in two files beside each of the disk's files. What is in them is not documented; that
// a host without them tells no changes is what 0xC03A0030 (missing change tracking information) is for. They are made anew when somebody next asks
// for tracking. The VM is off: there is no record in the host's memory.
var trackingEndings = []string{".rct", ".mrt"}

// untrack has nobody believe a change id from before the disks are written over. A restore writes past the host's change tracking, so
// that what the host goes on telling would lack all of it. Three things speak against it, each by itself, and all before the first
// byte is written:
//
//	the word in the VM's notes, which the ledger compares; people and programs replace notes
//	the host's record of changes goes, so that it knows no id of before: ours or another product's, in whichever repository
//	our reference points that are known here go: those that points of this repository name, and those of the journal's dead sessions. The
//	ledger believes no id without its own
//
// Reference points of others stay: they are not ours to take, and their ids are void all the same. A disk's VirtualDiskId stays too: a new
// one would do, but guests know their disks by it.
func (d *placeDraft) untrack(ctx context.Context, since map[string]hikae.ChangeID) error {
	for _, p := range d.disks {
		chain, err := d.host.chainOf(ctx, p.Disk)
		if err != nil {
			return fmt.Errorf("disk %s: %w", p.key, err)
		}
		for _, file := range chain {
			for _, ending := range trackingEndings {
				if err := d.store.Remove(ctx, file+ending); err != nil {
					return fmt.Errorf("disk %s: the host's record of its changes, which a restore makes untrue, cannot be removed: %w", p.key, err)
				}
			}
		}
	}
	if d.host.info.Build < build2016 { // there are none
		return nil
	}
	owned, err := d.ownReferences(ctx, since)
	if err != nil {
		return err
	}
	if err := (&Provider{site: d.restorer.site}).dropReferences(ctx, d.machine.ID, owned); err != nil {
		return err
	}
	left, err := d.host.references(ctx, d.machine.ID)
	if err == nil && len(left) > 0 {
		d.notes = append(d.notes, fmt.Sprintf("the VM has %d reference points that are not known to be ours. They stay, but change tracking saw nothing of this restore: whatever was backed up on them has to be backed up in full", len(left)))
	}
	return err
}

// Void implements job.Voider.
func (d *placeDraft) Void(ids []hikae.ChangeID) { d.void = ids }

// ownReferences are the reference points that are known to be ours: by the change ids of points, and by the journal of dead sessions.
func (d *placeDraft) ownReferences(ctx context.Context, since map[string]hikae.ChangeID) (ids []string, err error) {
	for _, id := range slices.AppendSeq(slices.Clone(d.void), maps.Values(since)) {
		if m, err := parseMoment(id); err == nil && m.vm == d.machine.ID {
			ids = append(ids, m.ref)
		}
	}
	for e, err := range d.pending(ctx) {
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		if (e.Kind == kindReference && e.Facts["reference"] != "" || e.Kind == kindBase) && strings.EqualFold(e.VM, d.machine.ID) {
			ids = append(append(ids, e.Facts["reference"]), linesOf(e.Facts["base"])...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// pending are the effects of dead sessions; none where the journal does not tell.
func (d *placeDraft) pending(ctx context.Context) iter.Seq2[hikae.Effect, error] {
	if journal, ok := d.journal.(interface {
		Pending(context.Context) iter.Seq2[hikae.Effect, error]
	}); ok {
		return journal.Pending(ctx)
	}
	return func(func(hikae.Effect, error) bool) {}
}
