package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// checkpointEvery is how many records lie between two checkpoints. One of the samples has others: hence the field of repository.
const checkpointEvery = 4096

const maxCheckpointTries = 8

// What a reader takes of one, whoever signed it.
const (
	maxEntry = 512 << 10 // bytes of an entry of its lists
	maxAlien = 1 << 20   // entries of the list of kinds
)

// jump goes on from the newest checkpoint that can be read, if it is ahead.
func (r *repository) jump() error {
	var numbers []uint64
	for _, place := range places {
		names, err := r.list(place+"checkpoint", isNumber)
		if err != nil {
			return err
		}
		for _, name := range names {
			if k := number(name); k > 0 && k <= maxRecords && k*r.every-1 > r.log.end {
				numbers = append(numbers, k)
			}
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	for tries, k := range slices.Backward(numbers) {
		if len(numbers)-tries > maxCheckpointTries {
			break
		}
		h, err := r.readCheckpoint(k)
		if err == nil {
			r.log = h
			return nil
		}
		if errors.Is(err, errUnsupported) {
			return err
		}
		r.note("%v", err)
	}
	return nil
}

// readCheckpoint takes a checkpoint from the first place where it is whole.
func (r *repository) readCheckpoint(k uint64) (*history, error) {
	var last error
	for _, place := range places {
		name := place + checkpointName(k)
		raw, _, err := r.document(name, want{kind: kindCheckpoint, repository: &r.id}, nil)
		var s *signed
		if err == nil {
			s, err = r.parseSigned(raw, "hikae/1/sign/checkpoint")
		}
		if err == nil && (!s.good || s.key != string(r.root)) {
			err = damaged(name, -1, "it is not signed with the root key")
		}
		if err == nil {
			var h *history
			if h, err = r.parseCheckpoint(s.body, k); err == nil {
				return h, nil
			}
		}
		if last == nil || errors.Is(last, errMissing) {
			last = named(name, err)
		}
	}
	return nil, last
}

// parseCheckpoint makes the state of what a checkpoint says.
func (r *repository) parseCheckpoint(body []byte, k uint64) (*history, error) {
	doc := parseDocument(body, "k", "n", "hashes", "keys", "leases", "points", "unfinished", "leaving", "held", "tombs", "bad", "slots", "alien", "audit")
	h := newHistory([32]byte{})
	h.end = doc.number("n")
	h.from = h.end
	doc.noNulls()
	hashes := doc.list("hashes", 32)
	if doc.number("k") != k || h.end != k*r.every-1 || uint64(len(hashes)) != min(r.every, h.end) {
		doc.fail("it says that it is another checkpoint")
		return nil, doc.err
	}
	h.last = [32]byte(hashes[len(hashes)-1])
	doc.each("keys", func(d *document) {
		role := d.text("role")
		h.keys[string(d.bytes("key", 32))] = &writer{full: role == "full", append: role == "append", vms: d.list("vms", 16)}
	}, "key", "role", "vms")
	doc.each("leases", func(d *document) {
		l := &lease{key: string(d.bytes("key", 32)), access: d.text("access")}
		d.get("over", &l.over)
		if owner := d.bytes("scope", 32); [32]byte(owner) != [32]byte{} {
			l.scope = derive(r.idKey, nil, "hikae/1/id/writer"+string(owner))
		}
		for _, p := range d.list("points", 16) {
			l.points = append(l.points, id16(p))
		}
		h.leases[d.number("n")] = l
	}, "n", "hash", "key", "scope", "access", "points", "over", "revoked", "flushed")
	doc.each("points", func(d *document) {
		h.points = append(h.points, &commit{d.number("n"), d.number("lease"), id16(d.bytes("point", 16)), d.bytes("vm", 16), d.bytes("object", 32), ""})
	}, "n", "lease", "point", "vm", "object")
	if _, some := doc.fields["unfinished"]; some {
		doc.each("unfinished", func(d *document) {
			u := &begun{commit: &commit{d.number("n"), d.number("lease"), id16(d.bytes("point", 16)), d.bytes("vm", 16), d.bytes("object", 32), ""}}
			leaving := false
			d.get("prunes", &u.prunes)
			if d.get("leaving", &leaving); !leaving {
				h.begun = append(h.begun, u)
			}
		}, "n", "lease", "point", "vm", "object", "prunes", "leaving")
	}
	doc.each("held", func(d *document) {
		var note string
		d.get("note", &note)
		h.held[id16(d.bytes("id", 16))] = note
	}, "id", "note", "time")
	doc.each("tombs", func(d *document) {
		t := &tomb{n: d.number("n")}
		d.get("final", &t.final)
		h.tombs[d.text("name")] = t
	}, "name", "n", "mark", "final")
	doc.each("bad", func(*document) { h.bad++ }, "id", "n")
	doc.each("slots", func(d *document) { h.slots = append(h.slots, id16(d.bytes("id", 16))) }, "id", "note", "time")
	var alien []string
	if doc.must("alien", &alien); len(alien) > maxAlien {
		doc.fail("%d kinds of records", len(alien))
	} else if len(alien) > 0 {
		r.note("%s: records of kinds that its writer did not know: %q", checkpointName(k), alien)
	}
	return h, doc.err
}

// each calls f with every object of a list, one after the other: millions of entries that are nothing cost nothing.
func (d *document) each(name string, f func(*document), known ...string) {
	dec := json.NewDecoder(bytes.NewReader(d.fields[name]))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		d.fail("field %q is no list", name)
	}
	for d.err == nil && dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil || len(raw) > maxEntry {
			d.fail("an entry of %q has %d bytes", name, len(raw))
			return
		}
		one := parseDocument(raw, known...)
		one.noNulls()
		if f(one); d.err == nil {
			d.err = one.err
		}
	}
}
