package repo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/internal/object"
)

// ledger is a client's view of the one log: what all records up to n say together.
//
// Creating log/<n+1> exclusively is the only atomic step of a repository. Whoever creates it has read everything
// before it, and every decision (may this lease still commit?) is taken on that state and nothing newer: if another
// record came first, the creation fails, the state is brought up to date, and the decision is taken again.
type ledger struct {
	vitals
	ahead  *logAhead // the store of vitals
	repo   [16]byte
	root   publicKey   // signs key records
	header hash        // of the header's document: what the first record follows
	clear  objectMaker // seals records: signed, not encrypted

	mu sync.Mutex
	logState
	epoch   uint64                                    // of the state: it was taken from a checkpoint so many times
	slotsAt uint64                                    // the last record that said which slots are in force, or a checkpoint after it
	every   uint64                                    // records between two checkpoints
	until   uint64                                    // nothing behind this record is read; 0: no such bound
	broken  error                                     // *ErrCorrupt: record n+1 is lost or unreadable, and there may be more behind it
	foreign *unsure                                   // record n, if somebody else created it: its copies may not be complete
	mend    bool                                      // put back first places that are lost
	room    func(ctx context.Context, r *record) bool // makes room for a record where there is none, and says whether it could; nil: nobody does
	gaps    map[uint64]gapSpan                        // by their numbers
	heeded  uint64                                    // the last record for which the log was read anew: see overlooked
	spare   func(ctx context.Context)                 // puts aside what is left of the room that was made
}

// logState is what all records up to n say together.
type logState struct {
	n          uint64
	last       hash   // of record n; of the header's document for n = 0
	from       uint64 // the checkpoint that it was begun with ends here: of what went before only the outcome is known
	keys       map[publicKey]enrolment
	leases     map[uint64]*leaseState // those that are over, durable and of the shared scope may lack
	points     []committed
	unfinished []unfinished       // what sessions that did not commit have made durable: one of a VM
	leaving    []committed        // points that were forgotten while a lease named them
	held       map[id16]string    // points that may not be forgotten, and why
	tombs      map[objectKey]tomb // what is to be removed
	deaths     []death            // what tombstones and their taking back said, in order
	bad        []badContent       // in order
	slots      []id16             // those in force; nil: all that there are
	slotNotes  map[id16]slotNote
	alien      []string        // records of kinds that we do not know
	base       uint64          // hashes begin behind this record
	hashes     []hash          // of record n at n-base-1
	begun      map[uint64]hash // of records up to base that began a lease
}

// unsure is a record that its writer may have died over.
type unsure struct {
	name string
	file []byte
}

// objectMaker seals one document as an object.
type objectMaker func(kind uint8, content []byte) (id [16]byte, file []byte, err error)

// enrolment is what a key may do.
type enrolment struct {
	role role
	vms  []id16
}

// leaseState is what the log says of a lease.
type leaseState struct {
	key     publicKey
	scope   scope  // of its content: the key's own where that may only append
	access  string // of an access that this version does not know: nothing but that it is open
	points  []id16
	over    bool // ended or revoked
	revoked bool
	flushed bool // it committed, and what it wrote was durable before that
}

// committed is a point as the log knows it.
type committed struct {
	n        uint64 // number of its commit record
	lease    uint64
	point    id16
	vm       id16
	manifest hash

	unfinished bool // it is none: see [unfinished]
}

func newLedger(v vitals, repo [16]byte, root publicKey, header hash, clear objectMaker) *ledger {
	ahead := newLogAhead(v.st)
	v.st = ahead
	return &ledger{
		vitals: v, ahead: ahead, repo: repo, root: root, header: header, clear: clear, every: checkpointEvery, mend: true,
		logState: stateBefore(header),
	}
}

// stateBefore is that of a log of which nothing was read.
func stateBefore(header hash) logState {
	return logState{
		last: header, keys: map[publicKey]enrolment{}, leases: map[uint64]*leaseState{},
		held: map[id16]string{}, tombs: map[objectKey]tomb{},
	}
}

// readAnew forgets what was read, so that the next refresh begins at the newest checkpoint.
func (l *ledger) readAnew() {
	l.logState, l.broken, l.foreign, l.gaps, l.slotsAt = stateBefore(l.header), nil, nil, nil, 0
	l.epoch++
	l.ahead.forget()
}

// refresh reads every record that has come since. Where one cannot be read in any of its places it stops before it, and
// remembers that: what came before still counts, nothing can be added, and whoever lists says that it is not the whole.
func (l *ledger) refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refreshLocked(ctx)
}

func (l *ledger) refreshLocked(ctx context.Context) error {
	defer l.ahead.forget()
	if l.n == 0 {
		if err := l.jump(ctx); err != nil {
			return err
		}
	}
	fetched := l.n
	for row := 0; l.until == 0 || l.n < l.until; row++ {
		if row >= aheadAfter && l.n >= fetched {
			count := min(row, aheadMost)
			l.ahead.forget()
			l.ahead.fetch(ctx, l.n, count)
			fetched = l.n + uint64(count)
		}
		found, err := l.next(ctx)
		if corrupt, ok := errors.AsType[*ErrCorrupt](err); ok {
			l.broken = corrupt
			return nil
		}
		if err != nil {
			return err
		}
		if !found {
			jumped, err := l.overtaken(ctx)
			if err == nil && !jumped && l.n < l.heeded { // it was read on from here, and must not be written to
				l.broken = &ErrCorrupt{Object: logName(l.n + 1), Reason: fmt.Sprintf("it is missing in all three places, and record %d is there", l.heeded)}
			}
			if err != nil || !jumped {
				return err
			}
			fetched = l.n
		}
		l.broken = nil
	}
	return nil
}

// findHole looks whether there are records behind the last one that can be read. Without it, a record that is lost in
// all three places would look like the log's end, and the next writer would write another history over it.
func (l *ledger) findHole(ctx context.Context) error {
	beyond := map[uint64]bool{}
	before, _ := l.head()
	for _, prefix := range copiesOf("log/") {
		for info, err := range l.st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if n, ok := parseNumber(strings.TrimPrefix(info.Name, prefix)); ok && n > before {
				beyond[n] = true
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refreshLocked(ctx); err != nil || l.broken != nil {
		return err
	}
	tries := 0
	for _, n := range slices.Sorted(maps.Keys(beyond)) {
		if n <= l.n {
			continue
		}
		if tries++; tries > maxHoleTries {
			break
		}
		_, err := l.read(ctx, logName(n), kindLog, l.repo, []object.Unwrapper{object.Clear{}}, func(v *vital) error {
			s, err := openSigned(v.content, signRecord, l.repo)
			if err != nil {
				return err
			}
			if r, err := decodeRecord(s.body); err != nil || r.N != n {
				return errors.Join(err, errors.New("it is another record"))
			}
			return nil
		})
		if err == nil {
			l.broken = &ErrCorrupt{Object: logName(l.n + 1), Reason: fmt.Sprintf("it is missing in all three places, and record %d is there", n)}
			return nil
		}
		if isFailure(err) {
			return err
		}
	}
	return nil
}

// maxHoleTries bounds what is read of objects that are named like later records and may be anything.
const maxHoleTries = 16

// head is the number and hash of the last record that was read.
func (l *ledger) head() (n uint64, last hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n, l.last
}

// damage is *ErrCorrupt where the log could not be read to its end.
func (l *ledger) damage() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// next reads record n+1, from any of its three places. A valid copy proves the record even where the first place has
// lost it: then the first place is filled again, byte for byte, before anybody could create another one there.
func (l *ledger) next(ctx context.Context) (bool, error) {
	name := logName(l.n + 1)
	var s signed
	var r *record
	signedOnly := func(v *vital) (err error) {
		s, r, err = l.follows(v.content)
		return err
	}
	v, err := l.read(ctx, name, kindLog, l.repo, []object.Unwrapper{object.Clear{}}, signedOnly)
	if errors.Is(err, errSignature) && !isFailure(err) { // in no place is it better
		v, err = l.read(ctx, name, kindLog, l.repo, []object.Unwrapper{object.Clear{}}, func(v *vital) error {
			if err := signedOnly(v); !errors.Is(err, errSignature) {
				return err
			}
			return nil
		})
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if v.missing[0] && l.mend {
		if err := l.createFirst(ctx, name, v.file); err != nil && !errors.Is(err, fs.ErrExist) {
			l.warn(fmt.Sprintf("%s is missing and could not be put back: %v", name, err))
		}
	}
	l.went(l.n+1, v.content)
	l.foreign = &unsure{name, v.file}
	if r != nil { // a record whose signature is wrong uses up its number and counts for nothing
		l.apply(s.key, r)
		l.bridge(s.key, r, l.last)
		if l.overlooked(s.key, r) {
			l.heeded = r.N
			l.readAnew()
			return true, l.jump(ctx)
		}
	}
	return true, nil
}

// follows reads what must be the next record.
func (l *ledger) follows(content []byte) (signed, *record, error) {
	s, err := openSigned(content, signRecord, l.repo)
	if err != nil {
		return signed{}, nil, err
	}
	r, err := decodeRecord(s.body)
	if err != nil {
		return signed{}, nil, err
	}
	if r.N != l.n+1 || r.Prev != l.last {
		return signed{}, nil, errors.New("it does not follow the record before it")
	}
	return s, r, nil
}

// went takes note that record n is the last one.
func (l *ledger) went(n uint64, content []byte) {
	l.n, l.last = n, hashBytes(content)
	l.hashes = append(l.hashes, l.last)
}

// apply takes a record into the state. What its key is not allowed to say counts for nothing.
func (l *ledger) apply(by publicKey, r *record) {
	if r.Kind == recordKey {
		if by == l.root && r.Key != nil {
			l.keys[*r.Key] = enrolment{r.Role, r.VMs}
		}
		return
	}
	who, ok := l.keys[by]
	if !ok || !who.may(r) {
		return
	}
	switch r.Kind {
	case recordLease:
		if who.role == roleAppend && (r.Access == accessPrune || r.For != nil) {
			return
		}
		s := &leaseState{key: by, access: r.Access}
		switch {
		case who.role == roleAppend:
			s.scope = scope(by)
		case r.For != nil:
			s.scope = scope(*r.For)
		}
		s.points = l.pointsNamed(r.Points, s.scope)
		l.leases[r.N] = s
		if r.Access == accessPrune {
			l.ageUnfinished()
		}
	case recordEnd, recordRevoke:
		if s := l.leases[r.Lease]; s != nil && !s.over && (r.Kind == recordRevoke || s.key == by) {
			s.over, s.revoked = true, s.revoked || r.Kind == recordRevoke
		}
	case recordCommit, recordUnfinished:
		if s := l.leases[r.Lease]; s == nil || s.over || s.key != by || s.access != accessWrite || r.Point == nil || r.VM == nil || r.Object == nil {
			return
		}
		if slices.ContainsFunc(l.points, func(c committed) bool { return c.point == *r.Point }) {
			return // the first one counts
		}
		c := committed{n: r.N, lease: r.Lease, point: *r.Point, vm: *r.VM, manifest: *r.Object}
		l.dropUnfinished(func(u unfinished) bool { return u.vm == c.vm || u.point == c.point })
		if r.Kind == recordUnfinished {
			c.unfinished = true
			l.unfinished = append(l.unfinished, unfinished{committed: c})
			return
		}
		l.leases[r.Lease].flushed = true
		l.points = append(l.points, c)
	case recordForget, recordHold, recordUnhold, recordTombstone, recordUntombstone, recordSweep, recordSwept, recordBad:
		l.applyDeletion(by, r)
	case recordSlots:
		l.applySlots(r)
	case recordGap: // see bridge: only the root key says that
	case recordAdopt: // what it says is for clients that know the other head
	default:
		l.alien = append(l.alien, strings.TrimPrefix(string(r.Kind), "unknown "))
	}
}

func (e enrolment) may(r *record) bool {
	switch {
	case e.role == roleFull:
		return true
	case e.role != roleAppend:
		return false
	case r.Kind == recordCommit:
		return r.VM != nil && slices.Contains(e.vms, *r.VM)
	}
	return r.Kind == recordLease || r.Kind == recordEnd
}

// errAppendRefused is what a draft returns when the state does not allow the record.
var errAppendRefused = errors.New("the log's state does not allow this")

// append creates the next record. draft is called with the state up to date, and again whenever another client was
// faster; it fills in what the record says, or refuses. On nil the record and its copies are durable.
func (l *ledger) append(ctx context.Context, key ed25519.PrivateKey, draft func() (*record, error)) (*record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := l.refreshLocked(ctx); err != nil {
			return nil, err
		}
		if l.broken != nil {
			return nil, l.broken
		}
		if len(l.alien) > 0 {
			return nil, &ErrUnsupported{What: "log records of kind " + l.alien[0]}
		}
		r, err := draft()
		if err != nil {
			return nil, err
		}
		if f := l.foreign; f != nil {
			if err := l.withRoom(ctx, r, func() error { return l.complete(ctx, f.name, f.file) }); err != nil {
				return nil, fmt.Errorf("copies of %s: %w", f.name, err)
			}
			l.foreign = nil
		}
		file, raw, err := l.seal(key, r)
		if err != nil {
			return nil, err
		}
		name := logName(r.N)
		err = l.withRoom(ctx, r, func() error { return l.createFirst(ctx, name, file) })
		if errors.Is(err, fs.ErrExist) {
			if err := l.mustAdvance(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("log record %d: %w", r.N, err)
		}
		if err := l.stands(ctx, r.N, hashBytes(raw)); err != nil {
			return nil, err
		}
		if err := l.withRoom(ctx, r, func() error { return l.copies(ctx, name, file) }); err != nil {
			return nil, fmt.Errorf("copies of log record %d: %w", r.N, err)
		}
		l.went(r.N, raw)
		l.apply(publicOf(key), r)
		return r, nil
	}
}

// mustAdvance: somebody has created our number, so there must be something to read there. A store that says both
// "exists" and "is not there" cannot carry the log, and asking it for ever helps nobody.
func (l *ledger) mustAdvance(ctx context.Context) error {
	before := l.n
	for wait := time.Millisecond; l.n == before; wait *= 2 {
		if err := l.refreshLocked(ctx); err != nil {
			return err
		}
		if l.n > before {
			return nil
		}
		if l.broken != nil {
			return l.broken
		}
		if wait > 2*time.Second {
			return &ErrCorrupt{Object: logName(before + 1), Reason: "the store says that it exists and that it does not"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return nil
}

func (l *ledger) seal(key ed25519.PrivateKey, r *record) (file, raw []byte, err error) {
	r.N, r.Prev, r.Time = l.n+1, l.last, time.Now().UTC().Truncate(time.Millisecond)
	_, _ = rand.Read(r.Nonce[:])
	body, err := r.encode()
	if err != nil {
		return nil, nil, err
	}
	if len(body) > maxRecord {
		return nil, nil, fmt.Errorf("log record of %d bytes: %w", len(body), errAppendRefused)
	}
	raw = sign(key, signRecord, l.repo, body)
	_, file, err = l.clear(kindLog, raw)
	return file, raw, err
}

// view reads the state under the ledger's lock.
func (l *ledger) view(f func(l *ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// flushed reports whether all that a lease wrote is durable.
func (l *ledger) flushed(lease uint64) bool {
	s := l.leases[lease]
	return s != nil && s.flushed
}

// unsettled are the leases of writers, and of prunes, that did not commit: who commits has made durable what he wrote.
func (l *ledger) unsettled() (leases []uint64) {
	for n, lease := range l.leases {
		if lease.access != accessRead && !lease.flushed {
			leases = append(leases, n)
		}
	}
	return leases
}

func (l *logState) hashAt(n uint64) hash {
	if i := n - l.base - 1; n > l.base && i < uint64(len(l.hashes)) {
		return l.hashes[i]
	}
	return l.begun[n]
}

// hashOf is the hash of record n; zero where there is none yet, or where it lies so far back that only checkpoints know of it.
func (l *ledger) hashOf(n uint64) (h hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hashAt(n)
}

// have reports whether all of these points are still there.
func (l *ledger) have(points []id16) error {
	lacking := setOf(points)
	for _, c := range l.points {
		delete(lacking, c.point)
	}
	for _, u := range l.unfinished {
		delete(lacking, u.point)
	}
	for id := range lacking {
		return fmt.Errorf("point %s: %w", id, ErrForgotten)
	}
	return nil
}

// live reports whether a lease may still write.
func (l *ledger) live(lease uint64) error {
	s := l.leases[lease]
	switch {
	case s == nil:
		return fmt.Errorf("lease %d: %w", lease, fs.ErrNotExist)
	case s.over: // a client that only writes may not revoke, and ends what a session of its own key has left
		return ErrRevoked
	}
	return nil
}
