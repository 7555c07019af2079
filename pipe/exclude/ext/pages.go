package ext

import (
	"container/list"
	"sync"
)

const (
	pageBytesLog = 15       // metadata that is close together is read together: 32 KiB
	cacheBytes   = 16 << 20 // what is kept of it
)

// pages keeps the last pages of metadata that were read. A page is shared by all readers and never changed.
type pages struct {
	bits uint // a page is 1<<bits blocks
	room int  // pages

	mu   sync.Mutex
	used *list.List // of pageEntry, the latest in front
	at   map[uint64]*list.Element
}

type pageEntry struct {
	n uint64
	p []byte
}

func newPages(blockBits uint) *pages {
	bits := uint(0)
	if blockBits < pageBytesLog {
		bits = pageBytesLog - blockBits
	}
	return &pages{bits: bits, room: cacheBytes >> (bits + blockBits), used: list.New(), at: map[uint64]*list.Element{}}
}

// of says in which page a block is, and as which block of it.
func (c *pages) of(block uint64) (page, in uint64) { return block >> c.bits, block & (1<<c.bits - 1) }

func (c *pages) get(n uint64) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.at[n]
	if !ok {
		return nil, false
	}
	c.used.MoveToFront(e)
	return e.Value.(pageEntry).p, true
}

func (c *pages) put(n uint64, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.at[n]; ok {
		return // two readers read it at the same time
	}
	c.at[n] = c.used.PushFront(pageEntry{n, p})
	for c.used.Len() > c.room {
		last := c.used.Back()
		delete(c.at, last.Value.(pageEntry).n)
		c.used.Remove(last)
	}
}
