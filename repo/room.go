package repo

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/hikae/hikae/repo/store"
)

// A prune works on a disk that is full to the last byte, although each of its steps is a record of the log and takes room. What
// gives that room are the caches: index and anchor objects are made of packs, and may go at any time. They cost the next client
// time, and nothing else. Where there are none, because the very first backup filled the disk, a reserve gives it that was put aside when
// the repository was made (store.Reserver); what a record leaves of it is put aside again at once, and all of it after a prune. Only records that make room, or end what holds it, get it this way: a backup on a full disk fails.

// roomAtOnce is how much of the caches goes at once, in bytes: enough for a few records with their copies. What is left serves again.
const roomAtOnce = 128 << 10

// The reserve is a 64th of what was free, within these bounds, in bytes: a prune of a small repository takes six records of three
// places and three cells each, and that of a large one some records of many packs.
const (
	minReserve = 384 << 10
	maxReserve = 4 << 20
)

// reserve puts room aside, where the store can do that. It is best effort: who has none works until the disk is full.
func (r *Repository) reserve(ctx context.Context) {
	keeper, ok := store.As[store.Reserver](r.st)
	spacer, also := store.As[store.Spacer](r.st)
	if !ok || !also || r.writer != nil || r.opts.ReadOnly {
		return
	}
	free, err := spacer.Free(ctx)
	if err == nil {
		_, err = keeper.Reserve(ctx, min(max(free/64, minReserve), maxReserve))
	}
	if err != nil && ctx.Err() == nil && !isFull(err) {
		r.warn(fmt.Sprintf("no room could be put aside: a disk that is filled to the last byte may not be pruned: %v", err))
	}
}

// release gives the reserve back for a record. The end of a session that filled the disk is not worth it: a prune finds that out.
func (r *Repository) release(ctx context.Context, rec *record) bool {
	keeper, ok := store.As[store.Reserver](r.st)
	if !ok || rec.Kind == recordEnd && !r.pruning.Load() {
		return false
	}
	freed, err := keeper.Release(ctx)
	if freed > 0 {
		r.warn(fmt.Sprintf("the store is full: %d bytes that were put aside are used to make room", freed))
	}
	return err == nil && freed > 0
}

// isFull reports whether a store's error says that there is no room.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// makesRoom reports whether a record is worth a cache.
func (r *record) makesRoom() bool {
	switch r.Kind {
	case recordCommit, recordUnfinished:
		return false
	case recordLease:
		return r.Access == accessPrune
	}
	return true
}

// makeRoom removes caches, those first that only help to find content at other offsets, and reports whether there were any.
func (r *Repository) makeRoom(ctx context.Context, rec *record) bool {
	if r.writer != nil || r.opts.ReadOnly {
		return false
	}
	freed := int64(0)
	for _, prefix := range []string{"anchor/", "index/"} {
		for info, err := range r.st.List(ctx, prefix) {
			if err != nil || freed >= roomAtOnce {
				break
			}
			if r.st.Remove(ctx, info.Name) == nil {
				freed += info.Size
			}
		}
	}
	if freed > 0 {
		r.warn(fmt.Sprintf("the store is full: %d bytes of caches were removed so that it can be pruned", freed))
	}
	return freed > 0 || r.release(ctx, rec)
}

// probe finds out what the store can do. That takes some room itself, which caches give: otherwise nobody could prune a full disk.
// The reserve is kept for records.
func (r *Repository) probe(ctx context.Context, p store.Prober) (can store.Abilities, err error) {
	for {
		can, err = p.Probe(ctx)
		if !isFull(err) || ctx.Err() != nil || !r.makeRoom(ctx, &record{Kind: recordEnd}) {
			return can, err
		}
	}
}

// withRoom does what needs room, and again as long as room can be made for it.
func (l *ledger) withRoom(ctx context.Context, r *record, do func() error) error {
	for made := false; ; made = true {
		err := do()
		if isFull(err) && ctx.Err() == nil && l.room != nil && r.makesRoom() && l.room(ctx, r) {
			continue
		}
		if made && l.spare != nil {
			l.spare(ctx) // what is left
		}
		return err
	}
}
