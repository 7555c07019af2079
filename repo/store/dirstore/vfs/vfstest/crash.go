package vfstest

import (
	"bytes"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
)

// What a power cut leaves is decided change by change: each name that was given or taken away, and each file's new content, since the
// last sync of its folder or file. Changes of which none was synced may survive in any order; what two of them make of one name too.

const block = 4096

// change is a name in a folder, or, without a name, a file's content.
type change struct {
	n    *node
	name string
}

// Crash is the directory as it may be after a power cut at this moment: each change that was not synced is kept with
// the probability keep, and of a file's content each block of 4 KiB. Nobody holds anything any more. The directory itself is not
// changed.
func (m *Mem) Crash(rng *rand.Rand, keep float64) *Mem {
	kept := func() bool { return rng.Float64() < keep }
	return m.crash(&crash{kept: func(change) bool { return kept() }, content: func(n *node) []byte { return n.blocks(kept) }})
}

// Unsynced is how many changes were not synced: names and files.
func (m *Mem) Unsynced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.root.changes(map[change]int{}))
}

// CrashKeeping is Crash with exactly those changes whose number, below [Mem.Unsynced], keep names. Content that is not kept is as
// it was synced, or with torn it may end, or be zeros, from any later byte on.
func (m *Mem) CrashKeeping(keep func(change int) bool, torn *rand.Rand) *Mem {
	m.mu.Lock()
	number := m.root.changes(map[change]int{})
	m.mu.Unlock()
	kept := func(c change) bool {
		n, known := number[c]
		return !known || keep(n)
	}
	content := func(f *node) []byte {
		switch {
		case kept(change{f, ""}):
			return f.data
		case torn == nil || len(f.data) == 0:
			return f.synced
		}
		return f.torn(torn)
	}
	return m.crash(&crash{kept: kept, content: content})
}

// changes numbers what was not synced, from the folder down.
func (n *node) changes(list map[change]int) map[change]int {
	if n.dir == nil {
		if _, ok := list[change{n, ""}]; !ok && !n.same() {
			list[change{n, ""}] = len(list)
		}
		return list
	}
	for _, name := range n.everyName() {
		if n.syncedDir[name] != n.dir[name] {
			list[change{n, name}] = len(list)
		}
		for _, entry := range []*node{n.dir[name], n.syncedDir[name]} {
			if entry != nil {
				entry.changes(list)
			}
		}
	}
	return list
}

// everyName is each name that is in a folder or was when it was synced, in order, so that a seed says everything.
func (n *node) everyName() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(n.dir)), maps.Keys(n.syncedDir))
	slices.Sort(names)
	return slices.Compact(names)
}

// Fingerprint is the same for directories that hold the same, but for what is below ".tmp".
func (m *Mem) Fingerprint(seed maphash.Seed) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(seed)
	m.root.hash(&h, true)
	return h.Sum64()
}

func (n *node) hash(h *maphash.Hash, top bool) {
	if n.dir == nil {
		maphash.WriteComparable(h, len(n.data))
		_, _ = h.Write(n.data)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.dir)) {
		if top && name == ".tmp" {
			continue
		}
		_, _ = h.WriteString(name + "/")
		n.dir[name].hash(h, false)
	}
	_, _ = h.WriteString("//")
}

// crash makes a directory of another.
type crash struct {
	kept    func(name change) bool
	content func(file *node) []byte // of a file that is not as it was synced
	done    map[*node]*node
}

func (m *Mem) crash(c *crash) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.done = map[*node]*node{}
	place := m.where
	place.Kernel += "1"
	return newMem(c.node(m.root), place)
}

func (c *crash) node(n *node) *node {
	if d := c.done[n]; d != nil {
		d.names++
		return d
	}
	d := &node{names: 1}
	c.done[n] = d
	if n.dir == nil {
		d.data = n.synced
		if !n.same() {
			d.data = c.content(n)
		}
		d.data = d.data[:len(d.data):len(d.data)]
		d.synced = d.data
		return d
	}
	d.dir = map[string]*node{}
	for _, name := range n.everyName() {
		entry := n.syncedDir[name]
		if entry != n.dir[name] && c.kept(change{n, name}) {
			entry = n.dir[name]
		}
		if entry != nil {
			d.dir[name] = c.node(entry)
		}
	}
	d.syncedDir = maps.Clone(d.dir)
	return d
}

// same reports whether a file is as it was synced.
func (n *node) same() bool {
	return len(n.data) == len(n.synced) && (len(n.data) == 0 || &n.data[0] == &n.synced[0])
}

// blocks keeps of a file's content what chance keeps.
func (n *node) blocks(kept func() bool) []byte {
	size := len(n.synced)
	if size != len(n.data) && kept() {
		size = len(n.data)
	}
	out := make([]byte, size)
	copy(out, n.synced)
	for off := 0; off < size; off += block {
		end := min(off+block, size)
		if kept() && off < len(n.data) {
			copy(out[off:end], n.data[off:min(end, len(n.data))])
		}
	}
	return out
}

// torn keeps of a file's content what comes before any byte that was not synced.
func (n *node) torn(rng *rand.Rand) []byte {
	at := len(n.synced) + rng.IntN(len(n.data)-len(n.synced)+1)
	if rng.IntN(2) == 0 {
		return n.data[:at]
	}
	out := bytes.Clone(n.data)
	clear(out[at:])
	return out
}
