package hypervtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// How exactly a change is remembered: while the host runs, after an orderly end, and after a power cut. Hyper-V has these three
// kinds; how many bytes each is, is not documented, and these are our choice.
const (
	grainMemory = 32 << 10
	grainFile   = 256 << 10 // .rct
	grainCrash  = 2 << 20   // .mrt
)

// tracking is the resilient change tracking of one disk: stretches of time, each beginning where an id was given.
type tracking struct {
	on     bool
	epochs []*epoch
}

// epoch is what was changed from one id to the next.
type epoch struct {
	id    string
	dirty map[span]struct{}
}

// span is one grain: where it begins and how long it is.
type span struct{ off, len int64 }

// mark gives an id to this moment.
func (t *tracking) mark() string {
	g := strings.ToLower(newGUID())
	parts := strings.Split(g, "-")
	id := fmt.Sprintf("rctX:%s:%s:%s:%s:%s:%08x", parts[0], parts[1], parts[2], parts[3], parts[4], len(t.epochs)+1)
	t.on = true
	t.epochs = append(t.epochs, &epoch{id: id, dirty: map[span]struct{}{}})
	return id
}

// record notes a write.
func (t *tracking) record(off, n int64) {
	if len(t.epochs) == 0 || n <= 0 {
		return
	}
	e := t.epochs[len(t.epochs)-1]
	for at := off / grainMemory * grainMemory; at < off+n; at += grainMemory {
		e.dirty[span{at, grainMemory}] = struct{}{}
	}
}

// coarsen makes what is remembered as rough as a file of it is.
func (t *tracking) coarsen(grain int64) {
	for _, e := range t.epochs {
		rough := map[span]struct{}{}
		for s := range e.dirty {
			g := max(grain, s.len)
			rough[span{s.off / g * g, g}] = struct{}{}
		}
		e.dirty = rough
	}
}

// forget lets go of an id. What it remembers goes to the one before.
func (t *tracking) forget(id string) {
	for i, e := range t.epochs {
		if e.id != id {
			continue
		}
		if i > 0 {
			maps.Copy(t.epochs[i-1].dirty, e.dirty)
		}
		t.epochs = slices.Delete(t.epochs, i, i+1)
		return
	}
}

// reset forgets everything.
func (t *tracking) reset() { t.epochs = nil }

// since are the ranges that changed from one id until another, or until now where that is empty: joined, ascending, in the disk.
func (t *tracking) since(id, until string, size int64) (list []span, ok bool) {
	from := slices.IndexFunc(t.epochs, func(e *epoch) bool { return strings.EqualFold(e.id, id) })
	to := len(t.epochs)
	if until != "" {
		to = slices.IndexFunc(t.epochs, func(e *epoch) bool { return strings.EqualFold(e.id, until) })
	}
	if from < 0 || to < from {
		return nil, false
	}
	for _, e := range t.epochs[from:to] {
		list = slices.AppendSeq(list, maps.Keys(e.dirty))
	}
	slices.SortFunc(list, func(a, b span) int { return int(min(max(a.off-b.off, -1), 1)) })
	return joined(list, size), true
}

func joined(list []span, size int64) (out []span) {
	for _, s := range list {
		end := min(s.off+s.len, size)
		if s.off >= end {
			continue
		}
		if n := len(out); n > 0 && s.off <= out[n-1].off+out[n-1].len {
			out[n-1].len = max(out[n-1].len, end-out[n-1].off)
			continue
		}
		out = append(out, span{s.off, end - s.off})
	}
	return out
}
