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
	repo  [16]byte
	root  publicKey   // signs key records
	clear objectMaker // seals records: signed, not encrypted

	mu     sync.Mutex
	n      uint64
	last   hash // of record n; of the header's document for n = 0
	keys   map[publicKey]enrolment
	leases map[uint64]*leaseState
	points []committed
	alien  []string // records of kinds that we do not know
	marks  map[uint64]hash
	onMark uint64 // remember the hash of this record: the client's high-water mark
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
	access  string
	points  []id16
	over    bool // ended or revoked
	revoked bool
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
	return &ledger{
		vitals: v, repo: repo, root: root, clear: clear, last: header,
		keys: map[publicKey]enrolment{}, leases: map[uint64]*leaseState{}, marks: map[uint64]hash{},
	}
}

// refresh reads every record that has come since.
func (l *ledger) refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refreshLocked(ctx)
}

func (l *ledger) refreshLocked(ctx context.Context) error {
	for {
		found, err := l.next(ctx)
		if err != nil || !found {
			return err
		}
	}
}

// next reads record n+1, from any of its three places. A valid copy proves the record even where the first place has
// lost it: then the first place is filled again, byte for byte, before anybody could create another one there.
func (l *ledger) next(ctx context.Context) (bool, error) {
	name := logName(l.n + 1)
	v, err := l.read(ctx, name, kindLog, l.repo, []object.Unwrapper{object.Clear{}})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s, err := openSigned(v.content, signRecord, l.repo)
	if err != nil && !errors.Is(err, errSignature) {
		return false, &ErrCorrupt{Object: name, Reason: "not a signed record", Err: err}
	}
	var r *record
	if err == nil {
		if r, err = decodeRecord(s.body); err != nil {
			return false, &ErrCorrupt{Object: name, Reason: "not a record", Err: err}
		}
		if r.N != l.n+1 || r.Prev != l.last {
			return false, &ErrCorrupt{Object: name, Reason: "it does not follow the record before it"}
		}
	}
	if v.missing[0] {
		if err := l.createFirst(ctx, name, v.file); err != nil && !errors.Is(err, fs.ErrExist) {
			l.warn(fmt.Sprintf("%s is missing and could not be put back: %v", name, err))
		}
	}
	l.n++
	l.last = hashBytes(v.content)
	if l.n == l.onMark {
		l.marks[l.n] = l.last
	}
	if r != nil { // a record whose signature is wrong uses up its number and counts for nothing
		l.apply(s.key, r)
	}
	return true, nil
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
		l.leases[r.N] = &leaseState{key: by, access: r.Access, points: r.Points}
	case recordEnd, recordRevoke:
		if s := l.leases[r.Lease]; s != nil && (r.Kind == recordRevoke || s.key == by) {
			s.over, s.revoked = true, s.revoked || r.Kind == recordRevoke
		}
	case recordCommit:
		if s := l.leases[r.Lease]; s == nil || s.over || s.key != by || s.access != accessWrite || r.Point == nil || r.VM == nil || r.Object == nil {
			return
		}
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

// errStale is what a draft returns when the state no longer allows the record.
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
		if len(l.alien) > 0 {
			return nil, &ErrUnsupported{What: "log records of kind " + l.alien[0]}
		}
		r, err := draft()
		if err != nil {
			return nil, err
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
		l.n, l.last = r.N, hashBytes(raw)
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

// state is read under the ledger's lock.
func (l *ledger) view(f func(l *ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
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
