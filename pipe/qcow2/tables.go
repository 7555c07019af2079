package qcow2

import (
	"container/list"
	"encoding/binary"
	"io"
	"sync"

	"github.com/hikae/hikae/pipe/diskfile"
)

// tables are the L1 and L2 tables of an image that is being made. L2 tables come to be when an entry of theirs is first
// used; those that were used last stay in memory, the others wait in the file.
type tables struct {
	file  *diskfile.Pending
	alloc *allocator
	cs    int64
	l1Off int64
	l1    []uint64 // places of L2 tables
	max   int      // L2 tables in memory
	held  map[int]*list.Element
	order *list.List // of *table; front: used last
}

type table struct {
	index int
	b     []byte
	dirty bool
}

func newTables(a *allocator, cs, l1Off int64, entries, maxBytes int) tables {
	return tables{
		alloc: a, cs: cs, l1Off: l1Off, l1: make([]uint64, entries), max: max(maxBytes/int(cs), 2),
		held: make(map[int]*list.Element), order: list.New(),
	}
}

func (t *tables) entries() int { return len(t.l1) }

// get is the L2 entry of a cluster of the disk, 0 where there is no table for it.
func (t *tables) get(cluster int64) (uint64, error) {
	i, at := t.find(cluster)
	if t.l1[i] == 0 {
		return 0, nil
	}
	tab, err := t.load(i)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(tab.b[at:]), nil
}

// set changes the L2 entry of a cluster of the disk, making its table if there is none.
func (t *tables) set(cluster int64, entry uint64) error {
	i, at := t.find(cluster)
	tab, err := t.load(i)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(tab.b[at:], entry)
	tab.dirty = true
	return nil
}

// find is the table of a cluster, and the place of its entry in that.
func (t *tables) find(cluster int64) (i, at int) {
	per := t.cs / 8
	return int(cluster / per), int(cluster%per) * 8
}

// load brings an L2 table into memory, making it if there is none.
func (t *tables) load(i int) (*table, error) {
	if e := t.held[i]; e != nil {
		t.order.MoveToFront(e)
		return e.Value.(*table), nil
	}
	if err := t.evict(); err != nil {
		return nil, err
	}
	tab := &table{index: i, b: make([]byte, t.cs)}
	if t.l1[i] == 0 {
		t.l1[i] = uint64(t.alloc.clusters(1))
	} else if _, err := t.file.ReadAt(tab.b, int64(t.l1[i])); err != nil && err != io.EOF {
		// The file's end may lie within a table, as zeros at the end are not written before Commit.
		return nil, &diskfile.Error{Op: "read", Path: t.file.Path(), Off: int64(t.l1[i]), Err: err}
	}
	t.held[i] = t.order.PushFront(tab)
	return tab, nil
}

// evict writes the table that was not used for longest, if there are too many.
func (t *tables) evict() error {
	if t.order.Len() < t.max {
		return nil
	}
	e := t.order.Back()
	tab := e.Value.(*table)
	if err := t.write(tab); err != nil {
		return err
	}
	t.order.Remove(e)
	delete(t.held, tab.index)
	return nil
}

func (t *tables) write(tab *table) error {
	if !tab.dirty {
		return nil
	}
	if _, err := t.file.WriteAt(tab.b, int64(t.l1[tab.index])); err != nil {
		return err
	}
	tab.dirty = false
	return nil
}

// empty is the first cluster of the disk, from cluster on, whose L2 table exists: what is before it is zero.
func (t *tables) empty(mu *sync.Mutex, cluster int64) int64 {
	mu.Lock()
	defer mu.Unlock()
	per := t.cs / 8
	i := cluster / per
	if t.l1[i] != 0 {
		return cluster
	}
	for ; i < int64(len(t.l1)) && t.l1[i] == 0; i++ {
	}
	return i * per
}

// flush writes all tables.
func (t *tables) flush() error {
	for e := t.order.Front(); e != nil; e = e.Next() {
		if err := t.write(e.Value.(*table)); err != nil {
			return err
		}
	}
	b := make([]byte, 0, len(t.l1)*8)
	for _, off := range t.l1 {
		if off != 0 {
			off |= entryCopied
		}
		b = binary.BigEndian.AppendUint64(b, off)
	}
	_, err := t.file.WriteAt(b, t.l1Off)
	return err
}
