package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// checkpointEvery is how many records lie between two checkpoints (FORMAT.md section 6).
const checkpointEvery = 4096

// A checkpoint is the state of all records below its end, signed with the root key, so that those records may go and nobody has to read
// them. It is made a whole stretch late, and never removed: whoever was stopped for long and creates a record whose number has
// become free meets the first checkpoint that covers it, and knows that the record is void.

// checkpointDocument is one checkpoint. What a client needs no more of an old record is not in it.
type checkpointDocument struct {
	K          uint64                 `json:"k"`
	N          uint64                 `json:"n"`      // number of the last record that it covers
	Hashes     []hash                 `json:"hashes"` // of the last records that it covers, in order
	Keys       []checkpointKey        `json:"keys"`
	Leases     []checkpointLease      `json:"leases"`
	Points     []checkpointPoint      `json:"points"`
	Unfinished []checkpointUnfinished `json:"unfinished,omitempty"`
	Leaving    []checkpointPoint      `json:"leaving,omitempty"` // forgotten, and named by a lease that is not over
	Held       []checkpointNote       `json:"held"`
	Tombs      []checkpointTomb       `json:"tombs"`
	Bad        []checkpointBad        `json:"bad"`
	Slots      []checkpointNote       `json:"slots"` // those in force; none: all that there are
	Alien      []string               `json:"alien"` // kinds of records that its writer did not know
	Audit      []AuditEntry           `json:"audit"` // what records since the checkpoint before took away or allowed
}

type checkpointKey struct {
	Key  publicKey `json:"key"`
	Role role      `json:"role"`
	VMs  []id16    `json:"vms,omitempty"`
}

type checkpointLease struct {
	N       uint64    `json:"n"`
	Hash    hash      `json:"hash"` // of its record
	Key     publicKey `json:"key"`
	Scope   publicKey `json:"scope"` // zero: the shared one
	Access  string    `json:"access"`
	Points  []id16    `json:"points,omitempty"`
	Over    bool      `json:"over,omitempty"`
	Revoked bool      `json:"revoked,omitempty"`
	Flushed bool      `json:"flushed,omitempty"`
}

type checkpointPoint struct {
	N      uint64 `json:"n"`
	Lease  uint64 `json:"lease"`
	Point  id16   `json:"point"`
	VM     id16   `json:"vm"`
	Object hash   `json:"object"`
}

// checkpointUnfinished is an unfinished point, or one that is leaving.
type checkpointUnfinished struct {
	checkpointPoint
	Prunes  int  `json:"prunes,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
}

type checkpointNote struct {
	ID   id16      `json:"id"`
	Note string    `json:"note,omitempty"`
	Time time.Time `json:"time,omitzero"`
}

type checkpointTomb struct {
	Name  string `json:"name"`
	N     uint64 `json:"n"`
	Mark  uint64 `json:"mark"`
	Final bool   `json:"final,omitempty"`
}

type checkpointBad struct {
	ID hash   `json:"id"`
	N  uint64 `json:"n"`
}

// document describes a state. Everything is in an order that the state alone decides: two clients make the same of it.
func (l *ledger) document(audit []AuditEntry) *checkpointDocument {
	d := &checkpointDocument{
		K: (l.n + 1) / l.every, N: l.n, Keys: []checkpointKey{}, Leases: []checkpointLease{}, Points: []checkpointPoint{},
		Held: []checkpointNote{}, Tombs: []checkpointTomb{}, Bad: []checkpointBad{}, Slots: []checkpointNote{}, Alien: append([]string{}, l.alien...), Audit: audit,
	}
	d.Hashes = l.hashes[max(0, len(l.hashes)-int(l.every)):]
	for _, k := range slices.SortedFunc(maps.Keys(l.keys), func(a, b publicKey) int { return slices.Compare(a[:], b[:]) }) {
		d.Keys = append(d.Keys, checkpointKey{k, l.keys[k].role, l.keys[k].vms})
	}
	for _, n := range slices.Sorted(maps.Keys(l.leases)) {
		s := l.leases[n]
		if s.over && s.scope == (scope{}) && (s.access == accessRead || s.flushed) {
			continue // as good as one that the log does not have
		}
		d.Leases = append(d.Leases, checkpointLease{n, l.hashAt(n), s.key, publicKey(s.scope), s.access, s.points, s.over, s.revoked, s.flushed})
	}
	for _, c := range l.points {
		d.Points = append(d.Points, c.document())
	}
	for _, u := range l.unfinished {
		d.Unfinished = append(d.Unfinished, checkpointUnfinished{checkpointPoint: u.document(), Prunes: u.prunes})
	}
	for _, c := range l.stillLeaving() {
		if c.unfinished {
			d.Unfinished = append(d.Unfinished, checkpointUnfinished{checkpointPoint: c.document(), Leaving: true})
			continue
		}
		d.Leaving = append(d.Leaving, c.document())
	}
	for _, id := range inOrder(maps.Keys(l.held)) {
		d.Held = append(d.Held, checkpointNote{ID: id, Note: l.held[id]})
	}
	for o, t := range l.tombs {
		d.Tombs = append(d.Tombs, checkpointTomb{nameOf(o), t.n, t.mark, t.final})
	}
	slices.SortFunc(d.Tombs, func(a, b checkpointTomb) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range l.bad {
		d.Bad = append(d.Bad, checkpointBad{hash(b.id), b.n})
	}
	for _, id := range l.slots {
		d.Slots = append(d.Slots, checkpointNote{id, l.slotNotes[id].note, l.slotNotes[id].time})
	}
	return d
}

func (c committed) document() checkpointPoint {
	return checkpointPoint{c.n, c.lease, c.point, c.vm, c.manifest}
}

func (p checkpointPoint) committed() committed {
	return committed{n: p.N, lease: p.Lease, point: p.Point, vm: p.VM, manifest: p.Object}
}

func inOrder(ids func(func(id16) bool)) []id16 {
	return slices.SortedFunc(ids, func(a, b id16) int { return slices.Compare(a[:], b[:]) })
}

// state is what an opened checkpoint says. Errors: what no writer makes.
func (d *checkpointDocument) state() (logState, error) {
	s := logState{
		n: d.N, from: d.N, alien: d.Alien, hashes: d.Hashes,
		keys: make(map[publicKey]enrolment, len(d.Keys)), leases: make(map[uint64]*leaseState, len(d.Leases)), held: make(map[id16]string, len(d.Held)),
		tombs: make(map[objectKey]tomb, len(d.Tombs)), slotNotes: make(map[id16]slotNote, len(d.Slots)), begun: make(map[uint64]hash, len(d.Leases)),
	}
	s.points = slices.Grow(s.points, len(d.Points))
	s.leaving, s.unfinished = slices.Grow(s.leaving, len(d.Leaving)), slices.Grow(s.unfinished, len(d.Unfinished))
	s.deaths, s.bad, s.slots = slices.Grow(s.deaths, len(d.Tombs)), slices.Grow(s.bad, len(d.Bad)), slices.Grow(s.slots, len(d.Slots))
	s.base, s.last = d.N-uint64(len(d.Hashes)), d.Hashes[len(d.Hashes)-1]
	for _, k := range d.Keys {
		s.keys[k.Key] = enrolment{k.Role, k.VMs}
	}
	for _, e := range d.Leases {
		s.leases[e.N] = &leaseState{key: e.Key, scope: scope(e.Scope), access: e.Access, points: e.Points, over: e.Over, revoked: e.Revoked, flushed: e.Flushed}
		s.begun[e.N] = e.Hash
	}
	for _, p := range d.Points {
		s.points = append(s.points, p.committed())
	}
	for _, p := range d.Leaving {
		s.leaving = append(s.leaving, p.committed())
	}
	for _, p := range d.Unfinished {
		c := p.committed()
		if c.unfinished = true; p.Leaving {
			s.leaving = append(s.leaving, c)
			continue
		}
		s.unfinished = append(s.unfinished, unfinished{committed: c, prunes: p.Prunes})
	}
	for _, h := range d.Held {
		s.held[h.ID] = h.Note
	}
	for _, t := range d.Tombs {
		o, ok := objectNamed(t.Name)
		if !ok {
			return s, fmt.Errorf("checkpoint %d names %q", d.K, t.Name)
		}
		s.tombs[o] = tomb{t.N, t.Mark, t.Final}
		s.deaths = append(s.deaths, death{pack: o})
	}
	for _, b := range d.Bad {
		s.bad = append(s.bad, badContent{pipe.ID(b.ID), b.N})
	}
	for _, slot := range d.Slots {
		s.slots = append(s.slots, slot.ID)
		s.slotNotes[slot.ID] = slotNote{slot.Note, slot.Time}
	}
	return s, nil
}

// readCheckpoint reads one, from any of its three places. Only what the root key signed counts.
func (l *ledger) readCheckpoint(ctx context.Context, k uint64) (d *checkpointDocument, err error) {
	_, err = l.read(ctx, checkpointName(k), kindCheckpoint, l.repo, []object.Unwrapper{object.Clear{}}, func(v *vital) (err error) {
		d, err = l.openCheckpoint(v.content, k)
		return err
	})
	return d, err
}

func (l *ledger) openCheckpoint(content []byte, k uint64) (*checkpointDocument, error) {
	s, err := openSigned(content, signCheckpoint, l.repo)
	if err != nil {
		return nil, err
	}
	if s.key != l.root {
		return nil, errors.New("it is not signed with the root key")
	}
	d, err := decodeCheckpoint(s.body)
	if err != nil {
		return nil, err
	}
	if d.K != k || d.K == 0 || d.N != k*l.every-1 || uint64(len(d.Hashes)) != min(l.every, d.N) {
		return nil, fmt.Errorf("it says that it is checkpoint %d, up to record %d with %d hashes", d.K, d.N, len(d.Hashes))
	}
	return d, nil
}

// isCheckpoint reports whether an object is checkpoint k.
func (r *Repository) isCheckpoint(o *object.Object, k uint64) bool {
	if o == nil {
		return false
	}
	content, err := o.Content(0)
	if err != nil {
		return false
	}
	_, err = r.log.openCheckpoint(content, k)
	return err == nil
}

// jump takes the newest checkpoint in the place of the state, if that is ahead of it.
func (l *ledger) jump(ctx context.Context) error {
	var found []uint64
	for _, prefix := range copiesOf("checkpoint/") {
		for info, err := range l.st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if k, ok := parseNumber(strings.TrimPrefix(info.Name, prefix)); ok && k > 0 && k*l.every-1 > l.n && (l.until == 0 || k*l.every-1 <= l.until) {
				found = append(found, k)
			}
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	for tries, k := range slices.Backward(found) {
		if len(found)-tries > maxCheckpointTries {
			break
		}
		d, err := l.readCheckpoint(ctx, k)
		if err == nil {
			var s logState
			if s, err = d.state(); err == nil {
				l.logState, l.foreign = s, nil
				l.slotsAt = l.n
				l.epoch++
				return nil
			}
		}
		if isFailure(err) || ctx.Err() != nil {
			return err
		}
		l.warn(fmt.Sprintf("%s cannot be used: %v", checkpointName(k), err))
	}
	return nil // the records themselves, as far as they are there
}

// maxCheckpointTries bounds what is read of objects that are named like checkpoints and may be anything.
const maxCheckpointTries = 8

// overtaken asks, where the next record is not there, whether it is gone because a checkpoint covers it, and goes on from there.
func (l *ledger) overtaken(ctx context.Context) (bool, error) {
	k := (l.n+1)/l.every + 1                           // the first that would cover it
	there, err, _ := l.isThere(ctx, checkpointName(k)) // whoever writes asks again and wants an answer of all
	if err != nil || !there {
		return false, storeError(err)
	}
	before := l.n
	err = l.jump(ctx)
	return l.n > before, err
}

// isThere reports whether a vital object is in any of its three places, whatever is there, and which of them could not be asked.
func (l *ledger) isThere(ctx context.Context, name string) (there bool, first, copies error) {
	var errs [3]error
	var g sync.WaitGroup
	for i, place := range copiesOf(name) {
		g.Go(func() { _, errs[i] = l.st.Stat(ctx, place) })
	}
	g.Wait()
	for i, err := range errs {
		there = there || err == nil
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrForeign) {
			errs[i] = nil
		}
	}
	return there, errs[0], errors.Join(errs[1:]...)
}

// errVoid says that a record was created in a place that had become free: a session that was stopped for so long starts again.
var errVoid = fmt.Errorf("the log has gone on without this session for so long that nothing it says counts: %w", ErrRevoked)

// stands makes sure that a record which was just created is not void: the first checkpoint that would cover it is not there, or holds it.
func (l *ledger) stands(ctx context.Context, n uint64, h hash) error {
	k := n/l.every + 1
	there, first, copies := l.isThere(ctx, checkpointName(k))
	if err := errors.Join(first, copies); err != nil {
		return fmt.Errorf("whether log record %d counts is not known: %w", n, err)
	}
	if !there {
		return nil
	}
	d, err := l.readCheckpoint(ctx, k)
	if err != nil {
		return fmt.Errorf("whether log record %d counts is not known: %w", n, err)
	}
	if first := d.N - uint64(len(d.Hashes)) + 1; n >= first && n <= d.N && d.Hashes[n-first] == h {
		return nil
	}
	return errVoid
}

// Condense makes the checkpoints that are due and removes the log records that nobody needs any more. A prune does it by itself.
// What it could not remove a later call removes.
func (r *Repository) Condense(ctx context.Context) error {
	if r.writer != nil {
		return errWriteOnly
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	if err := r.log.refresh(ctx); err != nil {
		return err
	}
	if err := r.log.findHole(ctx); err != nil {
		return err
	}
	if err := r.log.damage(); err != nil {
		return err
	}
	n, _ := r.log.head()
	every := r.log.every
	if n < 2*every {
		return nil
	}
	newest := n/every - 1 // the one whose end lies a whole stretch back
	for k := r.lastCheckpoint(ctx) + 1; k <= newest; k++ {
		if err := r.makeCheckpoint(ctx, k); err != nil {
			return fmt.Errorf("%s: %w", checkpointName(k), err)
		}
	}
	if _, err := r.log.readCheckpoint(ctx, newest); err != nil {
		return fmt.Errorf("the log's records stay: %w", err)
	}
	return r.truncate(ctx, newest*every)
}

// lastCheckpoint is the newest one that can be read.
func (r *Repository) lastCheckpoint(ctx context.Context) uint64 {
	l := r.reread(0)
	if err := l.jump(ctx); err != nil || l.n == 0 {
		return 0
	}
	return (l.n + 1) / l.every
}

// reread is a ledger of its own, which reads the log anew and no further than record until.
func (r *Repository) reread(until uint64) *ledger {
	l := newLedger(vitals{r.st, func(string) {}}, r.header.ID, r.header.Root, r.headerHash, r.sealClear)
	l.every, l.until, l.mend = r.log.every, until, false
	return l
}

// makeCheckpoint makes checkpoint k of what the store holds, not of what this process remembers.
func (r *Repository) makeCheckpoint(ctx context.Context, k uint64) error {
	l := r.reread(k*r.log.every - 1)
	if err := l.refresh(ctx); err != nil {
		return err
	}
	if l.n != l.until {
		return errors.Join(l.broken, fmt.Errorf("the log can be read to record %d only", l.n))
	}
	if h := r.log.hashOf(l.n); h != (hash{}) && h != l.last {
		return &ErrCorrupt{Object: logName(l.n), Reason: "it is another record than this client has read"}
	}
	audit := []AuditEntry{}
	for e, err := range r.auditOf(ctx, l.n+1-min(l.every, l.n), l.n) {
		if err != nil {
			return err
		}
		audit = append(audit, e)
	}
	body, err := encodeJSON(l.document(audit))
	if err != nil {
		return err
	}
	raw := sign(r.keys.root, signCheckpoint, r.header.ID, body)
	if len(raw) > maxCheckpoint {
		return fmt.Errorf("a checkpoint of %d bytes is too long", len(raw))
	}
	_, file, err := r.sealClear(kindCheckpoint, raw)
	if err != nil {
		return err
	}
	if err := r.vital.create(ctx, checkpointName(k), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := l.readCheckpoint(ctx, k) // ours, or that of another client which was faster
	if err != nil {
		return err
	}
	if d.Hashes[len(d.Hashes)-1] != l.last || len(d.Points) != len(l.points) {
		return &ErrCorrupt{Object: checkpointName(k), Reason: "it tells another history than the log"}
	}
	return nil
}

// maxCheckpoint bounds a checkpoint's document, so that it can be read back as a vital object.
const maxCheckpoint = maxVital * 9 / 10

// truncate removes the records below n in all of their places, the oldest first.
func (r *Repository) truncate(ctx context.Context, n uint64) error {
	var names []string
	for _, prefix := range copiesOf("log/") {
		for info, err := range r.st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if i, ok := parseNumber(strings.TrimPrefix(info.Name, prefix)); ok && i < n {
				names = append(names, info.Name)
			}
		}
	}
	number := func(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(strings.Compare(number(a), number(b)), strings.Compare(a, b)) })
	for _, name := range names {
		err := r.st.Remove(ctx, name)
		if errors.Is(err, store.ErrLocked) { // for a point's sake; the checkpoint after this one's time has come removes it
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s, which a checkpoint stands for: %w", name, err)
		}
	}
	return nil
}
