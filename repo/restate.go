package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// restate finds out what lost records said, from what is before and behind them and from the manifests.
func (m *logMender) restate(ctx context.Context, gap *record, found *LogGap) error {
	w := &witness{m: m, gap: gap, found: found, first: m.base.n + 1, last: gap.Mark, leases: map[uint64]restated{}}
	w.enrol()
	for _, e := range m.chain {
		if _, ok := w.enrolled(e.key); !ok && e.key != m.r.header.Root {
			m.stranger(e.key)
		}
	}
	w.sessions()
	if err := w.commits(ctx); err != nil {
		return err
	}
	w.forgets()
	slices.SortStableFunc(gap.Said, func(a, b restated) int { return kindOrder(a.Kind) - kindOrder(b.Kind) })
	w.rest()
	return nil
}

// kindOrder: keys before the leases that they begin, leases before their commits.
func kindOrder(k recordKind) int {
	return slices.Index([]recordKind{recordKey, recordLease, recordCommit, recordForget}, k)
}

// witness gathers what shows of lost records.
type witness struct {
	m           *logMender
	gap         *record
	found       *LogGap
	first, last uint64
	leases      map[uint64]restated // that began in lost records
}

func (w *witness) lost(n uint64) bool { return n >= w.first && n <= w.last }

func (w *witness) say(s restated, about string, args ...any) {
	w.gap.Said = append(w.gap.Said, s)
	w.found.Found = append(w.found.Found, fmt.Sprintf(about, args...))
}

// enrol believes the caller.
func (w *witness) enrol() {
	for _, k := range w.m.trust {
		if _, known := w.m.base.keys[k]; !known {
			w.say(restated{N: w.first, By: k, Kind: recordKey, Role: roleFull}, "key %s was enrolled, by your word", publicKeyText(k)[:16])
			w.m.base.keys[k] = enrolment{role: roleFull}
		}
	}
}

// full reports whether a key may say everything, by what is before the gap or what is proven behind it.
func (w *witness) enrolled(k publicKey) (role, bool) {
	if e, ok := w.m.base.keys[k]; ok {
		return e.role, true
	}
	for _, e := range w.m.chain {
		if e.rec.Kind == recordKey && e.key == w.m.r.header.Root && e.rec.Key != nil && *e.rec.Key == k {
			return e.rec.Role, true
		}
	}
	return "", false
}

// sessions finds leases that later records refer to and no record began.
func (w *witness) sessions() {
	for _, e := range w.m.chain {
		n, rec := e.rec.Lease, e.rec
		if _, ok := w.enrolled(e.key); !ok || !w.lost(n) {
			continue
		}
		access := ""
		switch rec.Kind {
		case recordCommit, recordUnfinished:
			access = accessWrite
		case recordTombstone, recordUntombstone, recordSweep, recordSwept:
			access = accessPrune
		default:
			continue // one that ended, and of which nothing else is known, needs nothing
		}
		w.lease(n, e.key, access)
	}
}

func (w *witness) lease(n uint64, by publicKey, access string) bool {
	old, known := w.leases[n]
	if known {
		return old.By == by && old.Access == access
	}
	s := restated{N: n, By: by, Kind: recordLease, Access: access}
	w.leases[n] = s
	w.say(s, "record %d began a session (%s) of key %s", n, access, publicKeyText(by)[:16])
	return true
}

// commits finds manifests that their session's key signed, that no record commits, and that could have been committed in the gap.
func (w *witness) commits(ctx context.Context) error {
	names, err := w.m.r.listPlaces(ctx, "manifest/")
	if err != nil {
		return err
	}
	tried := map[string]bool{}
	for _, name := range names {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
		ref, ok := parseRef(strings.TrimPrefix(name, "manifest/"), "-")
		if !ok || tried[name] || w.known(ref) || w.buried(name) {
			continue
		}
		tried[name] = true
		if err := w.commit(ctx, name, ref); err != nil {
			return err
		}
	}
	return nil
}

// known reports whether records that are there, before or behind the gap, say what became of a manifest.
func (w *witness) known(ref objectRef) bool {
	id := id16(ref.ID)
	if slices.ContainsFunc(w.m.base.points, func(c committed) bool { return c.point == id }) {
		return true
	}
	return slices.ContainsFunc(w.m.chain, func(e logEvidence) bool { return e.rec.Point != nil && *e.rec.Point == id })
}

// buried reports whether a later prune let a manifest go.
func (w *witness) buried(name string) bool {
	return slices.ContainsFunc(w.m.chain, func(e logEvidence) bool {
		r, ok := w.enrolled(e.key)
		return ok && r == roleFull && (e.rec.Kind == recordTombstone || e.rec.Kind == recordSweep) && slices.Contains(e.rec.Packs, name)
	})
}

func (w *witness) commit(ctx context.Context, name string, ref objectRef) error {
	r := w.m.r
	var man *manifest
	var by publicKey
	v, err := r.vital.read(ctx, name, kindManifest, r.header.ID, r.keys.unwraps, func(v *vital) error {
		s, err := openSigned(v.content, signManifest, r.header.ID)
		if err != nil {
			return err
		}
		man, by = new(manifest), s.key
		if err := decodeJSON(s.body, man); err != nil {
			return err
		}
		if man.Point != id16(ref.ID) || man.Lease != ref.Lease {
			return errors.New("it is another point's")
		}
		return errors.Join(man.check(), man.checkShapes(r.header.BlockSize))
	})
	if isFailure(err) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil || man.Unfinished {
		return nil // nobody could restore it
	}
	if _, ok := w.enrolled(by); !ok {
		w.m.stranger(by)
		return nil
	}
	switch s := w.m.base.leases[ref.Lease]; {
	case w.lost(ref.Lease):
		if !w.lease(ref.Lease, by, accessWrite) {
			return nil
		}
	case s == nil || s.over || s.key != by || s.access != accessWrite:
		return nil // its commit would not have counted
	}
	vm, stream := r.keys.tag(man.VM), v.digest
	w.say(restated{N: w.commitNumber(ref.Lease), By: by, Kind: recordCommit, Lease: ref.Lease, Point: &man.Point, VM: &vm, Object: &stream},
		"point %s of %s, of %s, was written whole by session %d, which signed it: it is kept as committed", man.Point, man.VM, spoken(man.Time), ref.Lease)
	return nil
}

// commitNumber is a number of the gap behind the lease.
func (w *witness) commitNumber(lease uint64) uint64 { return min(max(w.first, lease+1), w.last) }

// forgets finds points of which a later prune let the manifest go, although no record that is there forgot them.
func (w *witness) forgets() {
	for _, c := range w.m.base.points {
		name := manifestName(c.lease, c.point)
		for _, e := range w.m.chain {
			if e.rec.Kind == recordForget && slices.Contains(e.rec.Points, c.point) {
				break
			}
			role, ok := w.enrolled(e.key)
			if !ok || role != roleFull || e.rec.Kind != recordTombstone || !slices.Contains(e.rec.Packs, name) {
				continue
			}
			if _, held := w.m.base.held[c.point]; held {
				break // it would not have gone
			}
			w.say(restated{N: w.last, By: e.key, Kind: recordForget, Points: []id16{c.point}},
				"point %s was forgotten: record %d, of a prune, lets its manifest go", c.point, e.rec.N)
			break
		}
	}
}

// rest tells what cannot be known.
func (w *witness) rest() {
	w.found.Open = append(w.found.Open,
		"a hold that was set there does not hold any more, and one that was lifted still does: look at `hikae points`",
		"a point that was forgotten there, and of which no prune has removed anything yet, is back: forget it again",
		"a key that was let in there is not known: what it signed does not count unless you name it",
		"a key that was taken away there may open the repository again, if its slot is still in the store: look at `hikae key list`")
	if len(w.m.rep.Unknown) > 0 {
		w.found.Open = append(w.found.Open, "records are signed by keys that nobody is known to have let in")
	}
}
