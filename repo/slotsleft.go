package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// A slot is made before the record that puts it in force, and removed after the record that takes it away. Whoever dies in
// between leaves one that counts for nothing. The next change of the slots removes it, and so does a prune:
//
//	list what is there    →    record which slots are in force    →    remove what was listed and is not in force
//
// A slot may look left behind that somebody is just about to put in force. He finds the record in between: his own is drafted
// on a state in which the slots were said anew since he made his, so he leaves that slot and makes another.

// errSlotsSaid says that the slots were said anew since one was made.
var errSlotsSaid = errors.New("the slots in force were said anew meanwhile")

// maxSlotTries bounds how often a slot is made again because of that.
const maxSlotTries = 8

// LeftSlots are the ids of slots that lie in the store and are not in force: what a change of keys left that broke off, or what
// somebody put back. They open nothing. The next change of keys removes them, and so does a prune.
func (r *Repository) LeftSlots(ctx context.Context) (left []string, err error) {
	ids, err := r.leftSlots(ctx)
	for _, id := range ids {
		left = append(left, id.String())
	}
	return left, err
}

func (r *Repository) leftSlots(ctx context.Context) (left []id16, err error) {
	names, err := r.slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if id, ok := slotID(name); ok && !r.inForce(id) {
			left = append(left, id)
		}
	}
	return left, nil
}

// changeSlots makes slots, puts in force what change says of them and of those that are there, and removes what is left behind.
// Nil for make: none are made.
func (r *Repository) changeSlots(ctx context.Context, why string, make func() ([]id16, error), change func(now, made []id16) ([]id16, error)) (made []id16, err error) {
	for range maxSlotTries {
		if err := r.log.refresh(ctx); err != nil {
			return nil, err
		}
		var since uint64
		r.log.view(func(l *ledger) { since = l.slotsAt })
		left, err := r.leftSlots(ctx)
		if err != nil {
			return nil, err
		}
		if make != nil {
			made, err = make()
			if errors.Is(err, fs.ErrNotExist) && r.slotsSaid(ctx, since) {
				continue // what was made was removed before it was proven to open
			}
			if err != nil {
				return nil, err
			}
		}
		err = r.sayslots(ctx, why, func(now []id16) ([]id16, error) {
			if len(made) > 0 && r.log.slotsAt != since {
				return nil, errSlotsSaid
			}
			return change(now, made)
		})
		if errors.Is(err, errSlotsSaid) {
			r.removeLeft(ctx, made)
			continue
		}
		if err == nil {
			r.removeLeft(ctx, left)
		}
		return made, err
	}
	return nil, fmt.Errorf("%w, each time", errSlotsSaid)
}

// slotsSaid reports whether the slots were said anew since.
func (r *Repository) slotsSaid(ctx context.Context, since uint64) (said bool) {
	if r.log.refresh(ctx) != nil {
		return false
	}
	r.log.view(func(l *ledger) { said = l.slotsAt != since })
	return said
}

// removeLeft removes slots that count for nothing. What cannot be removed stays, and opens nothing.
func (r *Repository) removeLeft(ctx context.Context, left []id16) {
	for _, id := range left {
		if r.inForce(id) {
			continue
		}
		if err := r.removeSlot(ctx, id); err != nil {
			r.warn(err.Error())
		}
	}
}

// sweepSlots removes what is left behind, where there is any.
func (r *Repository) sweepSlots(ctx context.Context) error {
	left, err := r.leftSlots(ctx)
	if err != nil || len(left) == 0 {
		return err
	}
	_, err = r.changeSlots(ctx, fmt.Sprintf("%d slots were left behind", len(left)), nil, func(now, _ []id16) ([]id16, error) { return now, nil })
	return err
}
