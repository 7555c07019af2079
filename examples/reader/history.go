package main

import (
	"bytes"
	"slices"
)

// history is the state of the log after its last record. Nothing but the records before decides what one of them counts for.
type history struct {
	end    uint64 // number of the last record
	last   [32]byte
	from   uint64   // what went before is known from the checkpoint that ends here; 0: from the records
	broken error    // why nothing behind end can be read
	gone   []uint64 // records that a gap stands for, but for its own

	keys   map[string]*writer // by public key
	leases map[uint64]*lease
	points []*commit // those that exist, in the order of their commits
	begun  []*begun  // unfinished ones: no points, but tombstones spare them
	held   map[id16]string
	tombs  map[string]*tomb // by name of the object
	bad    int              // ids of content that is known to be damaged
	slots  []id16           // those in force; nil: all that there are
}

// writer is an enrolled key.
type writer struct {
	full, append bool
	vms          [][]byte
}

// lease is one session; scope is nil for the shared one.
type lease struct {
	key    string
	access string
	over   bool
	scope  []byte
	points []id16
}

// commit is what the log says of a point; key is empty where only a checkpoint knows of it.
type commit struct {
	n, lease uint64
	point    id16
	vm       []byte
	object   []byte
	key      string
}

// begun is an unfinished point, and how many prunes have begun since.
type begun struct {
	*commit
	prunes int
}

const maxPrunes = 32

// tomb says that an object is to be removed, or is being removed.
type tomb struct {
	n     uint64
	final bool
}

// event is the content of one record.
type event struct {
	n             uint64
	kind          string
	unknown       bool
	subject, role string // key
	vms           [][]byte
	lease, mark   uint64
	access        string
	forKey        string
	points        []id16
	point, vm     []byte
	object        []byte
	packs         []string
	ids           [][]byte
	slots         []id16
	note          string
	gap           *gap
}

func newHistory(header [32]byte) *history {
	return &history{last: header, keys: map[string]*writer{}, leases: map[uint64]*lease{}, held: map[id16]string{}, tombs: map[string]*tomb{}}
}

// may says whether a key's role lets it say this at all.
func (w *writer) may(e *event) bool {
	switch {
	case w.full:
		return true
	case !w.append:
		return false
	case e.kind == "lease":
		return e.access != "prune" && e.forKey == ""
	case e.kind == "commit":
		return slices.ContainsFunc(w.vms, func(tag []byte) bool { return bytes.Equal(tag, e.vm) })
	}
	return e.kind == "end"
}

// say takes one record into the state, whose key may say such a thing.
func (h *history) say(key string, by *writer, e *event, r *repository) {
	switch e.kind {
	case "lease":
		l := &lease{key: key, access: e.access}
		if owner := e.forKey; owner != "" || !by.full {
			if owner == "" {
				owner = key
			}
			l.scope = derive(r.idKey, nil, "hikae/1/id/writer"+owner)
		}
		for _, c := range h.points {
			if slices.Contains(e.points, c.point) && (l.scope == nil || bytes.Equal(l.scope, h.scope(c.lease))) {
				l.points = append(l.points, c.point)
			}
		}
		for _, u := range h.begun {
			if slices.Contains(e.points, u.point) && l.scope == nil {
				l.points = append(l.points, u.point)
			}
		}
		h.leases[e.n] = l
		if e.access == "prune" {
			for _, u := range h.begun {
				u.prunes++
			}
			h.drop(func(u *begun) bool { return u.prunes >= maxPrunes })
		}
	case "end", "revoke":
		if l := h.leases[e.lease]; l != nil && (e.kind == "revoke" || l.key == key) {
			l.over = true
		}
	case "commit", "unfinished":
		h.commit(key, e)
	case "forget":
		h.drop(func(u *begun) bool { return slices.Contains(e.points, u.point) })
		h.points = slices.DeleteFunc(h.points, func(c *commit) bool {
			_, held := h.held[c.point]
			return !held && slices.Contains(e.points, c.point)
		})
	case "hold":
		for _, p := range e.points {
			if h.has(p) {
				h.held[p] = e.note
			}
		}
	case "unhold":
		for _, p := range e.points {
			delete(h.held, p)
		}
	case "bad":
		h.bad += len(e.ids)
	case "slots":
		if len(e.slots) > 0 {
			h.slots = e.slots
		}
	case "tombstone", "untombstone", "sweep", "swept":
		if l := h.leases[e.lease]; l == nil || l.over || l.key != key || l.access != "prune" {
			return
		}
		for _, name := range e.packs {
			h.bury(e, name)
		}
	case "adopt":
	default:
		r.note("%s: a record of a kind that this reader does not know (%q)", logName(e.n), e.kind)
	}
}

// drop takes unfinished points away.
func (h *history) drop(goes func(*begun) bool) { h.begun = slices.DeleteFunc(h.begun, goes) }

// commit notes a point, or an unfinished one, if it is one: of a writer's lease that is not over, by the lease's key, with an id that no point has.
func (h *history) commit(key string, e *event) {
	l := h.leases[e.lease]
	if l == nil || l.over || l.key != key || l.access != "write" || e.point == nil || e.vm == nil || e.object == nil || h.has(id16(e.point)) {
		return
	}
	c := &commit{e.n, e.lease, id16(e.point), e.vm, e.object, key}
	h.drop(func(u *begun) bool { return bytes.Equal(u.vm, c.vm) || u.point == c.point })
	if e.kind == "unfinished" {
		h.begun = append(h.begun, &begun{commit: c})
		return
	}
	h.points = append(h.points, c)
}

func (h *history) has(point id16) bool {
	return slices.ContainsFunc(h.points, func(c *commit) bool { return c.point == point })
}

// bury takes one name of a record that is about removing.
func (h *history) bury(e *event, name string) {
	t := h.tombs[name]
	switch {
	case e.kind == "tombstone" && t == nil && h.mayGo(name):
		h.tombs[name] = &tomb{n: e.n}
	case e.kind == "untombstone" && t != nil && !t.final:
		delete(h.tombs, name)
	case e.kind == "sweep" && t != nil && !h.questioned(name, t.n, e.lease):
		t.final = true
	case e.kind == "swept" && t != nil && t.final:
		delete(h.tombs, name)
	}
}

// mayGo says whether a tombstone may name this object: a pack or a manifest of a session that is over, and no manifest of a point
// that exists or that an open session names.
func (h *history) mayGo(name string) bool {
	kind, n, id, ok := parseName(name)
	if l := h.leases[n]; !ok || n > h.end || l != nil && !l.over {
		return false
	}
	if kind == kindData || kind == kindMeta {
		return true
	}
	for _, l := range h.leases {
		if !l.over && slices.Contains(l.points, id) {
			return false
		}
	}
	begun := slices.ContainsFunc(h.begun, func(u *begun) bool { return u.point == id })
	return kind == kindManifest && !begun && !h.has(id)
}

// questioned says whether a session older than record n that is not over may still need an object: the prune's own aside, and those
// of write-only clients, which know nothing of what is not their own.
func (h *history) questioned(name string, n, own uint64) bool {
	_, written, _, _ := parseName(name)
	of := h.scope(written)
	for number, l := range h.leases {
		if number < n && number != own && !l.over && (l.scope == nil || bytes.Equal(l.scope, of)) {
			return true
		}
	}
	return false
}

// scope is that of what was written under a lease.
func (h *history) scope(n uint64) []byte {
	if l := h.leases[n]; l != nil {
		return l.scope
	}
	return nil
}
