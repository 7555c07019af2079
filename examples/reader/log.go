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
	maxBehind     = 16        // what is looked at of names behind a hole in the log
)

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

// readLog begins with the newest checkpoint and reads every record behind it. Where one cannot be read it stops before it,
// and keeps why: what came before still counts.
func (r *repository) readLog() error {
	r.log = newHistory(r.headerHash)
	if err := r.jump(); err != nil {
		return err
	}
	for r.log.end < maxRecords {
		s, err := r.readRecord(r.log.end + 1)
		if errors.Is(err, errDamaged) {
			r.log.broken = err
			return nil
		}
		if err != nil {
			return err
		}
		if s != nil {
			r.apply(s)
			continue
		}
		before := r.log.end
		if err := r.jump(); err != nil {
			return err
		}
		if r.log.end == before {
			return r.findHole()
		}
	}
	return unsupported("log", "more than %d records", maxRecords)
}

// readRecord takes record n from the first place where it is whole and follows the one before it. Only where there is none does
// one with a wrong signature count, as one that says nothing. Nil is the end of the log.
func (r *repository) readRecord(n uint64) (*signed, error) {
	var unsigned *signed
	var last error
	absent := 0
	for _, place := range places {
		s, err := r.recordAt(place+logName(n), n)
		switch {
		case err == nil && s.good:
			return s, nil
		case err == nil && unsigned == nil:
			unsigned = s
		case errors.Is(err, errMissing):
			absent++
		case err != nil && last == nil:
			last = err
		}
	}
	if unsigned != nil || absent == len(places) {
		return unsigned, nil
	}
	return nil, last
}

// recordAt reads one place of a record; what does not follow the record before is not it.
func (r *repository) recordAt(name string, n uint64) (*signed, error) {
	raw, _, err := r.document(name, want{kind: kindLog, repository: &r.id}, nil)
	if err != nil {
		return nil, err
	}
	s, err := r.follows(raw, n)
	return s, named(name, err)
}

// follows takes a document for record n, if it is one that names the record before it.
func (r *repository) follows(raw []byte, n uint64) (*signed, error) {
	s, err := r.parseSigned(raw, "hikae/1/sign/log")
	if err != nil {
		return nil, err
	}
	doc := parseDocument(s.body)
	if len(s.body) > maxRecordBody {
		doc.fail("a record of %d bytes", len(s.body))
	}
	if doc.number("n") != n || !bytes.Equal(doc.bytes("prev", 32), r.log.last[:]) {
		doc.fail("it does not follow the record before it")
	}
	doc.text("kind")
	return s, doc.err
}

// findHole looks for records behind the end: then the end is none, but a record that is lost.
func (r *repository) findHole() error {
	behind := map[uint64]bool{}
	for _, place := range places {
		names, err := r.list(place+"log", isNumber)
		if err != nil {
			return err
		}
		for _, name := range names {
			if n := number(name); n > r.log.end && len(behind) < maxBehind {
				behind[n] = true
			}
		}
	}
	for n := range behind {
		for _, place := range places {
			raw, _, err := r.document(place+logName(n), want{kind: kindLog, repository: &r.id}, nil)
			if err != nil {
				continue
			}
			if s, err := r.parseSigned(raw, "hikae/1/sign/log"); err == nil && s.good && parseDocument(s.body).number("n") == n {
				r.log.broken = damaged(logName(r.log.end+1), -1, "none of its three copies is there, and record %d is", n)
				return nil
			}
		}
	}
	return nil
}

// apply changes the state by the next record. One that is not signed by whoever may say it uses up its number.
func (r *repository) apply(s *signed) {
	h := r.log
	h.end, h.last = h.end+1, s.whole
	e := r.parseRecord(s)
	by := h.keys[s.key]
	switch {
	case e.unknown && s.good && by != nil && by.full:
		r.note("%s: a record of a kind that this reader does not know (%q)", logName(h.end), e.kind)
	case !s.good || e.unknown:
		r.note("%s: wrongly signed or not known; it counts for nothing", logName(h.end))
	case e.kind == "key":
		if s.key == string(r.root) && e.subject != "" {
			h.keys[e.subject] = &writer{full: e.role == "full", append: e.role == "append", vms: e.vms}
		}
	case e.kind == "gap":
		if s.key == string(r.root) {
			r.bridge(e)
		}
	case by == nil || !by.may(e):
		r.note("%s: its key may not say %q; it counts for nothing", logName(h.end), e.kind)
	default:
		h.say(s.key, by, e, r)
	}
}

// parseRecord reads the body of a record. One with a field, or with something in a field, that this reader does not know is of a
// kind that it does not know.
func (r *repository) parseRecord(s *signed) *event {
	doc := parseDocument(s.body, "n", "nonce", "prev", "time", "kind", "key", "role", "vms", "lease", "access", "points",
		"point", "vm", "object", "packs", "ids", "fork", "for", "mark", "slots", "lost", "said", "note")
	e := &event{n: doc.number("n"), vms: doc.list("vms", 16)}
	doc.get("kind", &e.kind)
	doc.get("role", &e.role)
	doc.get("access", &e.access)
	doc.get("note", &e.note)
	doc.get("lease", &e.lease)
	doc.get("mark", &e.mark)
	doc.get("packs", &e.packs)
	for _, raw := range doc.list("points", 16) {
		e.points = append(e.points, id16(raw))
	}
	for _, raw := range doc.list("slots", 16) {
		e.slots = append(e.slots, id16(raw))
	}
	e.ids = doc.list("ids", 32)
	e.subject, e.forKey = string(doc.maybe("key", 32)), string(doc.maybe("for", 32))
	e.point, e.vm, e.object = doc.maybe("point", 16), doc.maybe("vm", 16), doc.maybe("object", 32)
	e.gap = parseGap(doc)
	e.unknown = doc.err != nil
	if e.unknown {
		_ = parseDocument(s.body).get("kind", &e.kind)
	}
	return e
}

func (id id16) String() string { return hex.EncodeToString(id[:]) }
