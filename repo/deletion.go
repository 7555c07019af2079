package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
)

// What the log says of points and packs that go. LOCKING.md has why this is safe beside any number of writers and readers.

// objectKey names a pack or a manifest.
type objectKey = packRef

// tomb is what a tombstone says of one object.
type tomb struct {
	n     uint64 // number of the tombstone's record
	mark  uint64 // of the last record that its writer had read when it decided
	final bool   // nothing takes it back any more: the object is being removed, or is gone
}

// death is a tombstone of one pack, or its taking back.
type death struct {
	pack  packRef
	alive bool
}

// badContent is content that is known to be damaged wherever it was written under a lease below n.
type badContent struct {
	id pipe.ID
	n  uint64
}

// objectNamed reads the name of what a tombstone may name: a pack or a manifest.
func objectNamed(name string) (objectKey, bool) {
	kind, ref, ok := parseObject(name)
	switch kind {
	case kindData, kindMeta, kindManifest:
		return objectKey{ref, kind}, ok
	}
	return objectKey{}, false
}

// nameOf is the name of a pack or a manifest.
func nameOf(o objectKey) string {
	if o.Kind == kindManifest {
		return manifestName(o.Lease, o.ID)
	}
	return o.name()
}

// applyDeletion takes records into the state that take something away, or keep it. Nothing but the state decides what
// counts, so that all clients agree.
func (l *ledger) applyDeletion(by publicKey, r *record) {
	switch r.Kind {
	case recordForget: // what is held stays
		l.forgetUnfinished(r.Points)
		pins, named := l.pinned(), setOf(r.Points)
		l.leaving = l.stillLeaving()
		l.points = slices.DeleteFunc(l.points, func(c committed) bool {
			_, held := l.held[c.point]
			goes := !held && named[c.point]
			if goes && pins[c.point] { // whoever reads it reads on
				l.leaving = append(l.leaving, c)
			}
			return goes
		})
	case recordHold:
		named := setOf(r.Points)
		for _, c := range l.points {
			if named[c.point] {
				l.held[c.point] = r.Note
			}
		}
	case recordUnhold:
		for _, p := range r.Points {
			delete(l.held, p)
		}
	case recordBad:
		for _, id := range r.IDs {
			l.bad = append(l.bad, badContent{pipe.ID(id), r.N})
		}
	case recordTombstone, recordUntombstone, recordSweep, recordSwept:
		if s := l.leases[r.Lease]; s == nil || s.over || s.key != by || s.access != accessPrune {
			return // fenced: whose lease is over removes nothing more
		}
		may, ready := l.mayGo(), l.mayBeSwept(r.Lease) // once for all names: there may be many leases
		for _, name := range r.Packs {
			if o, ok := objectNamed(name); ok {
				l.bury(r, o, may, ready)
			}
		}
	}
}

func setOf(ids []id16) map[id16]bool {
	set := make(map[id16]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// pointsNamed are those of the points that a lease names which it holds: those that are there, and of a write-only client those
// of its own. So nobody brings back what was forgotten, and nobody keeps what he could not read.
func (l *ledger) pointsNamed(points []id16, by scope) (list []id16) {
	if len(points) == 0 {
		return nil
	}
	named := setOf(points)
	for _, c := range l.points {
		if !named[c.point] {
			continue
		}
		if of, _ := l.scopeOf(c.lease); by == (scope{}) || of == by {
			list = append(list, c.point)
		}
	}
	for _, u := range l.unfinished { // always of the shared scope
		if named[u.point] && by == (scope{}) {
			list = append(list, u.point)
		}
	}
	return list
}

// bury takes one name of a tombstone, untombstone, sweep or swept record.
func (l *ledger) bury(r *record, o objectKey, may func(objectKey) bool, ready func(objectKey, tomb) bool) {
	t, dead := l.tombs[o]
	switch {
	case r.Kind == recordTombstone && !dead && may(o):
		l.tombs[o] = tomb{n: r.N, mark: r.Mark}
		l.deaths = append(l.deaths, death{pack: o})
	case r.Kind == recordUntombstone && dead && !t.final:
		delete(l.tombs, o)
		l.deaths = append(l.deaths, death{pack: o, alive: true})
	case r.Kind == recordSweep && dead && ready(o, t):
		t.final = true
		l.tombs[o] = t
	case r.Kind == recordSwept && dead && t.final:
		delete(l.tombs, o)
	}
}

// needed are the points that keep what they are made of: those that are there, and those that were forgotten while somebody
// reads them or builds on them.
func (l *ledger) needed() []committed {
	list := slices.Clone(l.points)
	for _, u := range l.unfinished {
		list = append(list, u.committed)
	}
	return append(list, l.stillLeaving()...)
}

// stillLeaving are the forgotten points that a lease names which is not over.
func (l *ledger) stillLeaving() (list []committed) {
	pins := l.pinned()
	for _, c := range l.leaving {
		if pins[c.point] {
			list = append(list, c)
		}
	}
	return list
}

// mayGo tells whether a tombstone may name an object at all: nothing of a session that is not over, and no manifest of
// a point that is there or that such a session names. What it returns holds for the state as it is now.
func (l *ledger) mayGo() func(objectKey) bool {
	stay := sync.OnceValue(func() map[id16]bool {
		stay := l.pinned()
		for _, c := range l.points {
			stay[c.point] = true
		}
		for _, u := range l.unfinished {
			stay[u.point] = true
		}
		return stay
	})
	return func(o objectKey) bool {
		if o.Lease > l.n {
			return false
		}
		if s := l.leases[o.Lease]; s != nil && !s.over {
			return false
		}
		return o.Kind != kindManifest || !stay()[o.ID]
	}
}

// mayBeSwept tells of which objects nobody is left to question the tombstone: every lease below it is over, but that of the prune
// itself, which commits nothing, and those of write-only clients, which know only what is of their own scope.
// What it returns holds for the state as it is now.
func (l *ledger) mayBeSwept(besides uint64) func(objectKey, tomb) bool {
	oldest := map[scope]uint64{} // that is not over, by scope
	for n, s := range l.leases {
		if first, ok := oldest[s.scope]; !s.over && n != besides && (!ok || n < first) {
			oldest[s.scope] = n
		}
	}
	below := func(s scope, n uint64) bool {
		first, ok := oldest[s]
		return ok && first < n
	}
	return func(o objectKey, t tomb) bool {
		of, _ := l.scopeOf(o.Lease)
		return t.final || !below(scope{}, t.n) && !below(of, t.n)
	}
}

// waitedFor are the leases that are not over for which a tombstone waits, besides one.
func (l *ledger) waitedFor(besides uint64) []uint64 {
	last := map[scope]uint64{} // tombstone that waits, by scope
	newest := uint64(0)
	for o, t := range l.tombs {
		if of, _ := l.scopeOf(o.Lease); !t.final {
			last[of] = max(last[of], t.n)
			newest = max(newest, t.n)
		}
	}
	return slices.DeleteFunc(l.openBelow(newest, besides), func(n uint64) bool {
		of := l.leases[n].scope
		return of != scope{} && n >= last[of]
	})
}

// pinned are the points that leases which are not over read or build on.
func (l *ledger) pinned() map[id16]bool {
	pins := map[id16]bool{}
	for _, s := range l.leases {
		if !s.over {
			for _, p := range s.points {
				pins[p] = true
			}
		}
	}
	return pins
}

// openBelow are the leases with a number below n that are not over, besides one.
func (l *ledger) openBelow(n, besides uint64) (list []uint64) {
	for lease, s := range l.leases {
		if lease < n && lease != besides && !s.over {
			list = append(list, lease)
		}
	}
	slices.Sort(list)
	return list
}

// pruner is the lease of the prune that is under way, or 0.
func (l *ledger) pruner() uint64 {
	for n, s := range l.leases {
		if s.access == accessPrune && !s.over {
			return n
		}
	}
	return 0
}

// errStaleIndex says that the log's state was taken from a checkpoint: what went in between, this index was not told.
var errStaleIndex = errors.New("the index is older than the log's state")

// catchUp tells an index what the log has said since of packs that go and of content that is damaged. The caller holds
// indexMu.
func (r *Repository) catchUp(x *index) error {
	var deaths []death
	var bad []badContent
	stale := false
	r.log.view(func(l *ledger) {
		if stale = x.epoch != l.epoch; stale {
			return
		}
		deaths, bad = slices.Clone(l.deaths[x.deathsRead:]), slices.Clone(l.bad)
	})
	if stale {
		return errStaleIndex
	}
	x.mu.Lock()
	for _, d := range deaths {
		if x.dead == nil {
			x.dead = map[packRef]bool{}
		}
		if d.alive {
			delete(x.dead, d.pack)
		} else {
			x.dead[d.pack] = true
		}
	}
	if len(deaths) > 0 {
		x.gone = 0
		for ref := range x.dead {
			if _, ok := x.packNum[ref]; ok {
				x.gone++
			}
		}
	}
	x.deathsRead += len(deaths)
	if x.deathsRead > 0 || x.epoch > 0 {
		x.doubts = true // an assembled block that nobody needed may have lost what it is made of
	}
	if len(deaths) > 0 {
		clear(x.sound)
	}
	known := len(bad)
	if x.badPacks == len(x.packs) {
		bad = bad[min(x.badRead, known):]
	}
	x.badPacks = len(x.packs)
	x.badRead = known
	x.mu.Unlock()
	for _, b := range bad {
		if err := x.markBadBelow(b.id, b.n); err != nil {
			return err
		}
	}
	return nil
}

// renew tells an index what the log says by now of packs that go; where that is news, it finds the packs into which their
// content was copied. What comes after the lease that its caller has just taken waits for the end of that lease.
func (r *Repository) renew(ctx context.Context, x *index) (*index, error) {
	r.indexMu.Lock()
	before := x.deathsRead
	err := r.catchUp(x)
	news := x.deathsRead != before
	r.indexMu.Unlock()
	if errors.Is(err, errStaleIndex) || err == nil && news {
		return r.index(ctx, x.scope)
	}
	return x, err
}

// renewEvery bounds how often a reader looks for content that was copied away from under it: there may be as many bad blocks
// as a disk has.
const renewEvery = time.Second

// look finds, for who reads without a lease, the packs into which content was copied that is not where it was.
func (r *Repository) look(ctx context.Context, x *index) {
	if r.writer != nil {
		return
	}
	r.renewMu.Lock()
	defer r.renewMu.Unlock()
	if !r.renewed.IsZero() && time.Since(r.renewed) < renewEvery {
		return
	}
	r.renewed = time.Now()
	err := r.log.refresh(ctx)
	if err == nil {
		_, err = r.renew(ctx, x)
	}
	if err != nil && ctx.Err() == nil {
		r.warn(fmt.Sprintf("whether packs were written anew is not known: %v", err))
	}
}

// forgotten reports whether a point is not there any more.
func (r *Repository) forgotten(point id16) (gone bool) {
	r.log.view(func(l *ledger) { gone = l.have([]id16{point}) != nil })
	return gone
}

// markBadBelow takes note that content is damaged in all packs of leases below n.
func (x *index) markBadBelow(id pipe.ID, n uint64) error {
	var packs []uint32
	x.mu.RLock()
	err := x.all(id, func(l location) bool {
		if x.packs[l.pack].Lease < n {
			packs = append(packs, l.pack)
		}
		return true
	})
	x.mu.RUnlock()
	for _, p := range packs {
		x.markBad(id, p)
	}
	return err
}

// note cuts what a person is told to what a record may hold.
func note(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxNote {
		s = strings.ToValidUTF8(s[:maxNote], "")
	}
	return s
}

// HeldError says that a point is held, and stays until the hold is taken away.
type HeldError struct {
	Point string
	Note  string // what was said when it was held
}

func (e *HeldError) Error() string {
	if e.Note == "" {
		return fmt.Sprintf("point %s is held", e.Point)
	}
	return fmt.Sprintf("point %s is held: %s", e.Point, e.Note)
}
