package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"slices"
)

const (
	maxRecords    = 1 << 20   // a bound of this reader
	maxRecordBody = 256 << 10 // and one of the format
)

// history is the state of the log after its last record.
type history struct {
	end    uint64
	keys   map[string]*writer // by public key
	leases map[uint64]*lease
	points []*commit
	gone   map[id16]bool // forgotten
	held   map[id16]bool
}

// writer is an enrolled key.
type writer struct {
	public ed25519.PublicKey
	full   bool
	vms    [][]byte
}

// lease is one session; scope is nil for the shared one.
type lease struct {
	key   string
	write bool
	over  bool
	scope []byte
}

// commit is what a record says of a point.
type commit struct {
	n, lease uint64
	point    id16
	vm       []byte
	object   []byte
	key      string
}

// signed is a signed document, taken apart.
type signed struct {
	whole [32]byte
	key   string
	body  []byte
	good  bool
}

func (r *repository) parseSigned(raw []byte, domain string) (*signed, error) {
	if len(raw) < 96 {
		return nil, damaged("", -1, "a signed document of %d bytes", len(raw))
	}
	s := &signed{whole: hash(raw), key: string(raw[64:96]), body: raw[96:]}
	message := slices.Concat([]byte(domain), r.id[:], s.body)
	s.good = ed25519.Verify(ed25519.PublicKey(raw[64:96]), message, raw[:64])
	return s, nil
}

// readLog reads every record in order. Each one that is there, or whose number a later one has passed, must be readable.
func (r *repository) readLog() error {
	h := &history{keys: map[string]*writer{}, leases: map[uint64]*lease{}, gone: map[id16]bool{}, held: map[id16]bool{}}
	for _, place := range places {
		names, err := r.list(place+"log", isNumber)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			h.end = max(h.end, number(names[len(names)-1]))
		}
	}
	if h.end > maxRecords {
		return unsupported("log", "more than %d records", maxRecords)
	}
	r.log = h
	before := r.headerHash
	for n := uint64(1); n <= h.end; n++ {
		s, err := r.readRecord(n, before)
		if err != nil {
			return err
		}
		if err := r.apply(n, s, before); err != nil {
			return named(logName(n), err)
		}
		before = s.whole
	}
	return nil
}

// readRecord takes the record from the place where it stands best: a copy that does not count gives way to one that
// does, and two that count and differ are no log.
func (r *repository) readRecord(n uint64, before [32]byte) (*signed, error) {
	var best *signed
	var last error
	for _, place := range places {
		raw, _, err := r.document(place+logName(n), want{kind: kindLog, repository: &r.id}, nil)
		var s *signed
		if err == nil {
			s, err = r.parseSigned(raw, "hikae/1/sign/log")
		}
		if err != nil {
			if last == nil || errors.Is(last, errMissing) {
				last = named(place+logName(n), err)
			}
			continue
		}
		switch {
		case best == nil || r.genuine(s, n, before) && !r.genuine(best, n, before):
			best = s
		case r.genuine(s, n, before) && s.whole != best.whole:
			return nil, damaged(logName(n), -1, "two different records are signed for this number")
		}
	}
	if best == nil && errors.Is(last, errMissing) {
		return nil, damaged(logName(n), -1, "none of its three copies is there, and later records are")
	}
	if best == nil {
		return nil, last
	}
	return best, nil
}

func (r *repository) genuine(s *signed, n uint64, before [32]byte) bool {
	known := s.key == string(r.root) || r.log.keys[s.key] != nil
	if !s.good || !known {
		return false
	}
	doc := parseDocument(s.body)
	return doc.number("n") == n && bytes.Equal(doc.bytes("prev", 32), before[:]) && doc.err == nil
}

// apply changes the state by one record. One that is not signed by whoever may say it uses up its number.
func (r *repository) apply(n uint64, s *signed, before [32]byte) error {
	h := r.log
	by := h.keys[s.key]
	byRoot := s.key == string(r.root)
	if !s.good || by == nil && !byRoot {
		r.note("%s: not signed by a key that the log knows; it counts for nothing", logName(n))
		return nil
	}
	loose := parseDocument(s.body)
	kind := loose.text("kind")
	if len(s.body) > maxRecordBody {
		loose.fail("a record of %d bytes", len(s.body))
	}
	if loose.number("n") != n || !bytes.Equal(loose.bytes("prev", 32), before[:]) {
		loose.fail("it does not follow the record before it")
	}
	if loose.err != nil {
		return loose.err
	}
	doc := parseDocument(s.body, "n", "nonce", "prev", "time", "kind", "key", "role", "vms", "lease", "access", "points",
		"point", "vm", "object", "packs", "ids", "fork")
	if kind == "key" && byRoot {
		return h.enrol(doc)
	}
	if by == nil || !by.full && kind != "lease" && kind != "end" && kind != "commit" {
		r.note("%s: its key may not say %q; it counts for nothing", logName(n), kind)
		return nil
	}
	switch kind {
	case "lease":
		l := &lease{key: s.key, write: doc.text("access") == "write"}
		if !by.full {
			l.scope = derive(r.idKey, nil, "hikae/1/id/writer"+s.key)
		}
		if doc.err == nil {
			h.leases[n] = l
		}
	case "end", "revoke":
		if l := h.leases[doc.number("lease")]; doc.err == nil && l != nil && (kind == "revoke" || l.key == s.key) {
			l.over = true
		}
	case "commit":
		h.commit(n, s.key, by, doc)
	case "forget", "hold", "unhold":
		if points := doc.list("points", 16); doc.err == nil {
			h.change(kind, points)
		}
	case "tombstone", "untombstone", "swept", "bad", "adopt":
	default:
		r.note("%s: a record of kind %q, which this reader does not know", logName(n), kind)
		return nil
	}
	if errors.Is(doc.err, errUnsupported) {
		r.note("%s: %v; it counts for nothing", logName(n), doc.err)
		return nil
	}
	return doc.err
}

func (h *history) enrol(doc *document) error {
	key := doc.bytes("key", 32)
	role := doc.text("role")
	w := &writer{public: key, full: role == "full", vms: doc.list("vms", 16)}
	if doc.err == nil && (role == "full" || role == "append") {
		h.keys[string(key)] = w
	}
	return doc.err
}

// commit notes a point, if it is one: of a writer's lease that is not over, by the lease's key, for a VM of that key.
func (h *history) commit(n uint64, key string, by *writer, doc *document) {
	c := &commit{n: n, lease: doc.number("lease"), vm: doc.bytes("vm", 16), object: doc.bytes("object", 32), key: key}
	copy(c.point[:], doc.bytes("point", 16))
	l := h.leases[c.lease]
	mine := by.full || slices.ContainsFunc(by.vms, func(tag []byte) bool { return bytes.Equal(tag, c.vm) })
	if doc.err == nil && l != nil && l.write && !l.over && l.key == key && mine {
		h.points = append(h.points, c)
	}
}

func (h *history) change(kind string, points [][]byte) {
	for _, p := range points {
		id := id16(p)
		switch kind {
		case "hold":
			h.held[id] = true
		case "unhold":
			delete(h.held, id)
		case "forget":
			if !h.held[id] {
				h.gone[id] = true
			}
		}
	}
}

// live gives the points that exist, oldest first.
func (h *history) live() []*commit {
	var out []*commit
	seen := map[id16]bool{}
	for _, c := range h.points {
		if !h.gone[c.point] && !seen[c.point] {
			out = append(out, c)
		}
		seen[c.point] = true
	}
	return out
}

func (id id16) String() string { return hex.EncodeToString(id[:]) }
