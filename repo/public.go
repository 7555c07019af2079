package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Public is what can be known of a repository without any of its secrets: its header, and its log, which is signed and
// not encrypted. A blind target holds what clients bring against it, before it stores it.
//
// A refusal is fs.ErrPermission with the reason. It is safe for concurrent use.
type Public struct {
	st     store.Store
	header headerDocument
	log    *ledger
}

// OpenPublic reads the header and the log. Nothing is written, ever. Errors: ErrNotRepository, *ErrCorrupt,
// *ErrUnsupported.
func OpenPublic(ctx context.Context, st store.Store, warn func(string)) (*Public, error) {
	r := newClosed(st, &OpenOptions{ReadOnly: true, Warn: warn})
	if err := r.readHeader(ctx, nil); err != nil {
		return nil, err
	}
	l := newLedger(r.vital, r.header.ID, r.header.Root, r.headerHash, nil)
	l.mend = false
	if err := l.refresh(ctx); err != nil {
		return nil, err
	}
	return &Public{st: st, header: r.header, log: l}, l.findHole(ctx)
}

// Refresh reads what has come to the log.
func (p *Public) Refresh(ctx context.Context) error { return p.log.refresh(ctx) }

// Head is the number of the log's last record.
func (p *Public) Head() uint64 {
	n, _ := p.log.head()
	return n
}

// Lease is what the log says of a lease.
type Lease struct {
	Key    [32]byte // whose it is: an Ed25519 public key
	Append bool     // the key may only append
	Write  bool     // a writer's, not a reader's
	Over   bool     // ended or revoked
}

// Lease looks up a lease by its number.
func (p *Public) Lease(n uint64) (found Lease, ok bool) {
	p.log.view(func(l *ledger) {
		if s := l.leases[n]; s != nil {
			found = Lease{Key: s.key, Append: s.scope != scope{}, Write: s.access == accessWrite, Over: s.over}
			ok = true
		}
	})
	return found, ok
}

// Unsettled are the leases of writers, and of prunes, that did not commit. Of a writer that died, or of a creation that broke off, there may
// be packs whose names are there and not durable yet: before anybody relies on them they are settled.
func (p *Public) Unsettled() (leases []uint64) {
	p.log.view(func(l *ledger) { leases = l.unsettled() })
	return leases
}

// Bounds of what one write-only client may say to the log, which everybody reads to its end.
const (
	maxOpenLeases   = 64       // open ones that are in use: each keeps things from being swept
	maxAppendPoints = 16       // that a lease names: a session builds on one for each disk at most
	maxAppendFile   = 16 << 10 // of a record's file: such a record has some 600 bytes
)

// CheckRecord says whether a file may become log record n when a write-only client brings it: it is the next one, whole,
// follows the record before it, is signed by a key that may only append, and says nothing that this key may not or
// that the log's state does not allow. A commit's manifest has to be there already. It returns the key.
//
// A client holds a bounded number of leases open at once. Those that died with it, of which live says no, do not count:
// otherwise enough of its runs that were cut off would shut it out for ever. nil: all count.
func (p *Public) CheckRecord(ctx context.Context, n uint64, file []byte, live func(lease uint64) bool) (key [32]byte, err error) {
	if err := p.log.refresh(ctx); err != nil {
		return key, err
	}
	content, err := p.document(kindLog, file)
	if err != nil {
		return key, err
	}
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	switch l := p.log; {
	case l.broken != nil:
		return key, l.broken
	case len(l.alien) > 0:
		return key, &ErrUnsupported{What: "log records of kind " + l.alien[0]}
	case n <= l.n:
		return key, fs.ErrExist
	case n != l.n+1:
		return key, refused("record %d where %d is the next", n, l.n+1)
	}
	s, r, err := p.log.follows(content)
	if err != nil {
		return key, refused("record %d: %v", n, err)
	}
	if len(file) > maxAppendFile {
		return key, refused("a record of %d bytes", len(file))
	}
	if err := p.log.allows(s.key, r, live); err != nil {
		return key, err
	}
	if r.Kind == recordCommit {
		err = p.checkCommitted(ctx, r)
	}
	return s.key, err
}

// allows says whether a write-only client's record would count.
func (l *ledger) allows(by publicKey, r *record, live func(lease uint64) bool) error {
	who, ok := l.keys[by]
	switch {
	case !ok:
		return refused("the key that signed it is not enrolled")
	case who.role != roleAppend:
		return refused("the key that signed it is not one that only appends")
	case !who.may(r):
		return refused("its key may not make a record of kind %q, or not for that VM", r.Kind)
	case superfluous(r):
		return refused("it has fields that a record of kind %q does not use", r.Kind)
	case r.Kind == recordLease:
		return l.allowsLease(by, r, live)
	}
	switch s := l.leases[r.Lease]; {
	case s == nil || s.key != by:
		return refused("lease %d is not that key's", r.Lease)
	case s.over:
		return refused("lease %d is over", r.Lease)
	case r.Kind == recordEnd:
		return nil
	case s.access != accessWrite || r.Point == nil || r.VM == nil || r.Object == nil:
		return refused("a commit without a writer's lease, a point, a VM and a manifest")
	case slices.ContainsFunc(l.points, func(c committed) bool { return c.point == *r.Point }):
		return refused("point %s is there already", r.Point)
	}
	return nil
}

// superfluous reports whether a record of a write-only client has fields that its kind does not use.
func superfluous(r *record) bool {
	bare := record{N: r.N, Nonce: r.Nonce, Prev: r.Prev, Time: r.Time, Kind: r.Kind}
	switch r.Kind {
	case recordLease:
		bare.Access, bare.Points = r.Access, r.Points
	case recordEnd:
		bare.Lease = r.Lease
	case recordCommit:
		bare.Lease, bare.Point, bare.VM, bare.Object = r.Lease, r.Point, r.VM, r.Object
	}
	return !reflect.DeepEqual(*r, bare)
}

func (l *ledger) allowsLease(by publicKey, r *record, live func(lease uint64) bool) error {
	switch {
	case r.Access != accessWrite && r.Access != accessRead:
		return refused("a lease for %q", r.Access)
	case len(r.Points) > maxAppendPoints:
		return refused("a lease that names %d points", len(r.Points))
	}
	for i, p := range r.Points {
		if slices.Contains(r.Points[:i], p) {
			return refused("a lease that names point %s twice", p)
		}
	}
	if err := l.have(r.Points); err != nil {
		return refused("%v", err)
	}
	for _, c := range l.points {
		if s := l.leases[c.lease]; slices.Contains(r.Points, c.point) && (s == nil || s.key != by) {
			return refused("point %s is not that key's to hold", c.point)
		}
	}
	open := 0
	for n, s := range l.leases {
		if s.key == by && !s.over && (live == nil || live(n)) {
			open++
		}
	}
	if open >= maxOpenLeases {
		return refused("%d leases of that key are open", open)
	}
	return nil
}

// checkCommitted holds a commit against the manifest that it names: after it, whoever restores relies on that object.
func (p *Public) checkCommitted(ctx context.Context, r *record) error {
	name := manifestName(r.Lease, *r.Point)
	file, err := store.ReadAll(ctx, p.st, name, maxVital)
	if errors.Is(err, fs.ErrNotExist) {
		return refused("%s is not there", name)
	}
	if err != nil {
		return err
	}
	if digest, err := streamHash(file); err != nil || digest != *r.Object {
		return refused("%s is not the one that the record names", name)
	}
	return nil
}

// document is the one document of an object that is whole and in the clear.
func (p *Public) document(kind uint8, file []byte) ([]byte, error) {
	if len(file) > 2*maxRecord {
		return nil, refused("%d bytes are too many for it", len(file))
	}
	if _, err := p.checkFile(kind, [16]byte{}, object.SuiteClear, file); err != nil {
		return nil, err
	}
	o, _, err := object.OpenFile(file, cell.Ident{Kind: kind, Repo: p.header.ID}, []object.Unwrapper{object.Clear{}})
	if err != nil {
		return nil, refused("%v", err)
	}
	if len(o.Entries()) != 1 || o.Entries()[0].Type != object.TypeDocument || o.Entries()[0].Plain > maxRecord+signedMin {
		return nil, refused("not one document")
	}
	content, err := o.Content(0)
	if err != nil {
		return nil, refused("%v", err)
	}
	return content, nil
}

// maxBeatFile bounds a heartbeat: one cell and its copies.
const maxBeatFile = 4 * cell.Size

// CheckObject says whether a file may be stored under that name when a write-only client brings it: a pack, an index or
// anchor object, a manifest or a heartbeat, whole to its last cell, of this repository, sealed for who opens a slot.
// What is in it nobody without a key can say. It returns the lease that the name belongs to.
func (p *Public) CheckObject(name string, file []byte) (lease uint64, err error) {
	kind, ref, ok := parseObject(name)
	if !ok {
		return 0, refused("a write-only client creates nothing of that name")
	}
	limit, suite := p.largest(kind), p.header.Suite
	if kind == kindBeat {
		suite = object.SuiteClear
	}
	if int64(len(file)) > limit {
		return 0, refused("%d bytes, at most %d are possible", len(file), limit)
	}
	h, err := p.checkFile(kind, ref.ID, suite, file)
	if err != nil {
		return 0, err
	}
	if suite != object.SuiteClear && !p.sealedForReaders(h) {
		return 0, refused("it is not sealed for the repository's readers")
	}
	return ref.Lease, nil
}

// largest is how long a file of a kind may be.
func (p *Public) largest(kind uint8) int64 {
	switch kind {
	case kindData, kindMeta: // sealed once a further block might not fit
		return packFileSize(p.header.PackSize+p.header.BlockSize+1<<20, p.header.ParityPermille)
	case kindManifest:
		return maxVital
	case kindBeat:
		return maxBeatFile
	}
	return 32 << 20
}

// checkFile looks at every cell of a file, and at its header. A zero id is any.
func (p *Public) checkFile(kind uint8, id [16]byte, suite uint8, file []byte) (*object.Header, error) {
	g, damaged, err := cell.Check(file)
	switch {
	case err != nil:
		return nil, refused("%v", err)
	case len(damaged) > 0:
		return nil, refused("cell %d is damaged", damaged[0])
	case len(file) != g.FileSize() || packFileSize(g.Stream, p.header.ParityPermille) != int64(len(file)):
		return nil, refused("%d cells and %d of parity are not what this repository has", g.N, g.M)
	}
	head := make([]byte, min(g.Stream, object.HeaderMax))
	_, span := cell.StreamSpan(0, len(head))
	cell.Strip(head, file[:span], 0, len(head))
	h, err := object.ParseHeader(head)
	if err == nil {
		err = h.Matches(cell.Ident{Kind: kind, Repo: p.header.ID, Object: id})
	}
	switch {
	case err != nil:
		return nil, refused("%v", err)
	case g.Kind != kind || g.Object != h.Object || g.RepoPrefix != [8]byte(h.Repo[:8]):
		return nil, refused("its cells are named for another object")
	case h.Suite != suite:
		return nil, refused("it is of suite %d, not %d", h.Suite, suite)
	}
	tail := make([]byte, 4)
	off, span := cell.StreamSpan(g.Stream-len(tail), len(tail))
	if g.Stream < len(tail) {
		return nil, refused("its stream has %d bytes", g.Stream)
	}
	cell.Strip(tail, file[off:off+span], g.Stream-len(tail), len(tail))
	if at, _, err := object.TableSpan(g, tail); err != nil || at < h.Len() {
		return nil, refused("it ends without a table")
	}
	return h, nil
}

// sealedForReaders reports whether one of the ways to the data key is by the repository's own X25519 key.
func (p *Public) sealedForReaders(h *object.Header) bool {
	id := object.KeyID(p.header.Recipient)
	return slices.ContainsFunc(h.Wraps, func(w object.Wrap) bool {
		return w.Type == object.WrapX25519 && len(w.Body) >= len(id) && [8]byte(w.Body) == id
	})
}

// parseObject reads the names of what a write-only client creates besides the log.
func parseObject(name string) (kind uint8, ref objectRef, ok bool) {
	dir, rest, _ := strings.Cut(name, "/")
	switch dir {
	case "manifest":
		kind = kindManifest
		ref, ok = parseRef(rest, "-")
	case "index":
		kind = kindIndex
		ref, ok = parseRef(rest, "/")
	case "anchor":
		kind = object.KindAnchor
		ref, ok = parseRef(rest, "/")
	case "beat":
		kind = kindBeat
		lease, k, _ := strings.Cut(rest, "/")
		ref.Lease, ok = parseNumber(lease)
		if _, counts := parseNumber(k); !counts {
			ok = false
		}
	default:
		var p packRef
		p, ok = parsePack(name)
		kind, ref = p.Kind, p.objectRef
	}
	return kind, ref, ok && canonical(name)
}

// canonical: a store's names have lower case only, and so have ours; but a number is read by others too.
func canonical(name string) bool { return name == strings.ToLower(name) }

// LeaseOf is the lease that the name of an object belongs to: of a pack, a manifest, an index or anchor object, a
// heartbeat.
func LeaseOf(name string) (lease uint64, ok bool) {
	_, ref, ok := parseObject(name)
	return ref.Lease, ok
}

// RecordOf is the number of the log record that is stored under that name.
func RecordOf(name string) (n uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, "log/")
	if !ok || !canonical(name) {
		return 0, false
	}
	return parseNumber(rest)
}

// CheckCells looks at every cell of a file, whatever object it is: it finds what was changed on the way here, by
// chance and not by intent.
func CheckCells(file []byte) error {
	_, damaged, err := cell.Check(file)
	if err == nil && len(damaged) > 0 {
		err = fmt.Errorf("cell %d is damaged", damaged[0])
	}
	if err != nil {
		return refused("%v", err)
	}
	return nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", fs.ErrPermission, fmt.Sprintf(format, args...))
}
