package repo

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// What is damaged is told to all clients by records of kind bad: they name content, and whoever reads them refers to no
// place of it in packs of leases before the record. So it is stored again when it next appears, also by who has never
// verified anything.

const (
	maxBadIDs  = 3000    // in one record: 67 bytes each, and a record has at most 256 KiB
	maxDeclare = 1 << 18 // in one run
)

// badSince is content that is bad in packs of leases up to the one that it stands with.
type badSince map[pipe.ID]uint64

func (b badSince) add(id pipe.ID, lease uint64) { b[id] = max(b[id], lease) }

// condemned is the content of this scope that is damaged where it is and stands nowhere else: what points lack, what
// packs should have and have not, and what packs had that are gone.
func (v *verification) condemned() badSince {
	ids := badSince{}
	for id := range v.lack {
		ids.add(id, 0)
	}
	for b := range v.idx.bad {
		if !v.doubtful[b.id] {
			ids.add(b.id, v.idx.pack(b.pack).Lease)
		}
	}
	for id, p := range v.absent {
		ids.add(id, p.Lease)
	}
	maps.DeleteFunc(ids, func(id pipe.ID, _ uint64) bool {
		_, _, good, err := v.idx.best(id, false)
		_, lacking := v.lack[id] // of a recipe the index does not know it
		return good && !lacking && err == nil
	})
	return ids
}

// declare writes into the log that content is bad, unless the log has said it since.
func (v *verification) declare(ctx context.Context, bad badSince) error {
	said := v.said()
	maps.DeleteFunc(bad, func(id pipe.ID, lease uint64) bool { return said[id] > lease })
	ids := slices.SortedFunc(maps.Keys(bad), func(a, b pipe.ID) int { return bytes.Compare(a[:], b[:]) })
	if len(ids) > maxDeclare {
		v.note(fmt.Sprintf("%d blocks are bad, of which the log is told %d: verify again", len(ids), maxDeclare))
		ids = ids[:maxDeclare]
	}
	if len(ids) == 0 {
		return nil
	}
	key, err := v.r.signingKey(ctx)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(ids, maxBadIDs) {
		rec := record{Kind: recordBad, Note: note(fmt.Sprintf("%d blocks, found by a verification", len(ids)))}
		for _, id := range part {
			rec.IDs = append(rec.IDs, hash(id))
		}
		_, err := v.r.log.append(ctx, key, func() (*record, error) {
			fresh := rec
			return &fresh, nil
		})
		if err != nil {
			return fmt.Errorf("what is damaged could not be told to the log: %w", err)
		}
	}
	return v.r.client.advance(v.r.log)
}

// said is the content that the log calls bad, with the number of the last record that did.
func (v *verification) said() map[pipe.ID]uint64 {
	said := map[pipe.ID]uint64{}
	v.r.log.view(func(l *ledger) {
		for _, b := range l.bad {
			said[b.id] = b.n
		}
	})
	return said
}

// spend tells the packs that are damaged and that nothing depends on any more: no point needs them, and nobody refers to
// what is in them, because the log has said that it is bad or because they cannot tell what they hold.
func (v *verification) spend() {
	said := v.said()
	alive := map[packRef]bool{} // damaged packs of which something may still be referred to
	v.contentOf(func(p packRef, id pipe.ID, _ location) {
		if said[id] <= p.Lease {
			alive[p] = true
		}
	})
	spent := map[string]bool{}
	for p := range v.hurt {
		if v.blind {
			break // what a point needs of it is not known
		}
		num, known := v.idx.number(p)
		switch _, there := v.sizes[p]; {
		case !there || alive[p]:
		case known && int(num) < len(v.needed) && v.needed[num]:
		case !known && (len(v.lack) > 0 || !v.toldOf(p.Lease)):
		default:
			spent[p.name()] = true
		}
	}
	v.rep.Damaged = slices.DeleteFunc(v.rep.Damaged, func(d Damage) bool { return spent[d.Object] })
	v.rep.Spent = append(v.rep.Spent, slices.Sorted(maps.Keys(spent))...)
}

// toldOf reports whether the log was told of damage after a lease.
func (v *verification) toldOf(lease uint64) (told bool) {
	v.r.log.view(func(l *ledger) { told = len(l.bad) > 0 && l.bad[len(l.bad)-1].n > lease })
	return told
}

// contentOf calls f for all content of the damaged packs whose tables are known.
func (v *verification) contentOf(f func(p packRef, id pipe.ID, loc location)) {
	if len(v.hurt) == 0 {
		return
	}
	v.idx.mu.RLock()
	defer v.idx.mu.RUnlock()
	_ = v.idx.records.eachFull(func(id pipe.ID, loc location, _, _ bool) {
		if p := v.idx.packs[loc.pack]; v.hurt[p] && !v.idx.disowned[loc.pack] && loc.typ != object.TypeVoid {
			f(p, id, loc)
		}
	})
}
