package main

import (
	"encoding/json"
	"slices"
)

// maxGap is how many records one gap may stand for.
const maxGap = 4096

// gap ties the log together where records are lost: it restates them, and says how the chain goes on.
type gap struct {
	lost []byte // hash of the last one; nil: nothing was behind it
	said []*event
	by   []string // who said what
}

// parseGap reads the fields that only a gap has.
func parseGap(doc *document) *gap {
	g := &gap{lost: doc.maybe("lost", 32)}
	var said []json.RawMessage
	doc.get("said", &said)
	for _, raw := range said {
		d := parseDocument(raw, "n", "by", "kind", "role", "lease", "access", "points", "point", "vm", "object")
		e := &event{n: d.number("n"), kind: d.text("kind")}
		d.get("role", &e.role)
		d.get("lease", &e.lease)
		d.get("access", &e.access)
		for _, p := range d.list("points", 16) {
			e.points = append(e.points, id16(p))
		}
		e.point, e.vm, e.object = d.maybe("point", 16), d.maybe("vm", 16), d.maybe("object", 32)
		by := string(d.bytes("by", 32))
		if d.err != nil && doc.err == nil {
			doc.err = d.err
		}
		g.said, g.by = append(g.said, e), append(g.by, by)
	}
	return g
}

// counts tells whether a gap says something that can be: its number is h.end.
func (g *gap) counts(h *history, mark uint64) bool {
	return mark >= h.end && mark-h.end < maxGap && (g.lost != nil || mark == h.end)
}

// bridge takes a gap that the root key signed.
func (r *repository) bridge(e *event) {
	h, g := r.log, e.gap
	if !g.counts(h, e.mark) {
		r.note("%s: a gap that cannot be", logName(h.end))
		return
	}
	first := h.end
	for i, s := range g.said {
		if s.n < first || s.n > e.mark {
			continue
		}
		by := h.keys[g.by[i]]
		switch {
		case s.kind == "key":
			h.keys[g.by[i]] = &writer{full: s.role == "full", append: s.role == "append"}
		case by != nil && by.may(s) && slices.Contains([]string{"lease", "commit", "forget"}, s.kind):
			h.say(g.by[i], by, s, r)
		}
	}
	for n := first + 1; n <= e.mark; n++ {
		h.gone = append(h.gone, n)
	}
	h.end = e.mark
	if g.lost != nil {
		h.last = [32]byte(g.lost)
	}
	r.note("records %d to %d are lost; %s restates what they said", first, e.mark, logName(first))
}
