package repo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
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
	ahead *logAhead // the store of vitals
	repo  [16]byte
	root  publicKey   // signs key records
	clear objectMaker // seals records: signed, not encrypted

	mu      sync.Mutex
	n       uint64
	last    hash // of record n; of the header's document for n = 0
	keys    map[publicKey]enrolment
	leases  map[uint64]*leaseState
	points  []committed
	alien   []string // records of kinds that we do not know
	hashes  []hash   // of record n at n-1
	broken  error    // *ErrCorrupt: record n+1 is lost or unreadable, and there may be more behind it
	foreign *unsure  // record n, if somebody else created it: its copies may not be complete
	mend    bool     // put back first places that are lost
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
	scope   scope // of its content: the key's own where that may only append
	access  string
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
}

func newLedger(v vitals, repo [16]byte, root publicKey, header hash, clear objectMaker) *ledger {
	ahead := newLogAhead(v.st)
	v.st = ahead
	return &ledger{
		vitals: v, ahead: ahead, repo: repo, root: root, clear: clear, last: header,
		keys: map[publicKey]enrolment{}, leases: map[uint64]*leaseState{}, mend: true,
	}
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
	fetched := l.n
	for row := 0; ; row++ {
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
		if err != nil || !found {
			return err
		}
		l.broken = nil
	}
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
	for n := range beyond {
		if n <= l.n {
			continue
		}
		if tries++; tries > maxHoleTries {
			break
		}
		_, err := l.read(ctx, logName(n), kindLog, l.repo, []object.Unwrapper{object.Clear{}}, func(v *vital) error {
			_, err := openSigned(v.content, signRecord, l.repo)
			return err
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
		s := &leaseState{key: by, access: r.Access, points: r.Points}
		if who.role == roleAppend {
			s.scope = scope(by)
		}
		l.leases[r.N] = s
	case recordEnd, recordRevoke:
		if s := l.leases[r.Lease]; s != nil && (r.Kind == recordRevoke || s.key == by) {
			s.over, s.revoked = true, s.revoked || r.Kind == recordRevoke
		}
	case recordCommit:
		if s := l.leases[r.Lease]; s == nil || s.over || s.key != by || s.access != accessWrite || r.Point == nil || r.VM == nil || r.Object == nil {
			return
		}
		l.leases[r.Lease].flushed = true
		l.points = append(l.points, committed{r.N, r.Lease, *r.Point, *r.VM, *r.Object})
	case recordForget:
		l.points = slices.DeleteFunc(l.points, func(c committed) bool { return slices.Contains(r.Points, c.point) })
	case recordHold, recordUnhold, recordTombstone, recordUntombstone, recordSwept, recordBad, recordAdopt:
		l.alien = append(l.alien, string(r.Kind))
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
			if err := l.complete(ctx, f.name, f.file); err != nil {
				return nil, fmt.Errorf("copies of %s: %w", f.name, err)
			}
			l.foreign = nil
		}
		file, raw, err := l.seal(key, r)
		if err != nil {
			return nil, err
		}
		name := logName(r.N)
		err = l.createFirst(ctx, name, file)
		if errors.Is(err, fs.ErrExist) {
			if err := l.mustAdvance(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("log record %d: %w", r.N, err)
		}
		if err := l.copies(ctx, name, file); err != nil {
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

// unsettled are the leases of writers that did not commit: who commits has made durable what he wrote.
func (l *ledger) unsettled() (leases []uint64) {
	for n, lease := range l.leases {
		if lease.access == accessWrite && !lease.flushed {
			leases = append(leases, n)
		}
	}
	return leases
}

// hashOf is the hash of record n; zero where there is none yet.
func (l *ledger) hashOf(n uint64) (h hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 && n <= uint64(len(l.hashes)) {
		h = l.hashes[n-1]
	}
	return h
}

// have reports whether all of these points are still there.
func (l *ledger) have(points []id16) error {
	for _, id := range points {
		if !slices.ContainsFunc(l.points, func(c committed) bool { return c.point == id }) {
			return fmt.Errorf("point %s: %w", id, ErrForgotten)
		}
	}
	return nil
}

// live reports whether a lease may still write.
func (l *ledger) live(lease uint64) error {
	s := l.leases[lease]
	switch {
	case s == nil:
		return fmt.Errorf("lease %d: %w", lease, fs.ErrNotExist)
	case s.revoked:
		return ErrRevoked
	case s.over:
		return fmt.Errorf("lease %d has ended: %w", lease, errAppendRefused)
	}
	return nil
}
