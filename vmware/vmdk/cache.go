package vmdk

import (
	"container/list"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// cacheKey names a piece of a file: a page of its tables, or the decoded grain at an offset.
type cacheKey struct {
	file    pipe.Image
	decoded bool
	off     int64
}

type cacheItem struct {
	key  cacheKey
	data []byte
}

// cache keeps the pieces that were used last, up to a number of bytes. One serves a whole chain, so that a long chain
// takes no more than a short one. What is in it is never written to.
type cache struct {
	mu    sync.Mutex
	max   int
	used  int
	items map[cacheKey]*list.Element
	order *list.List // front: used last
}

func newCache(max int) *cache {
	return &cache{max: max, items: make(map[cacheKey]*list.Element), order: list.New()}
}

func (c *cache) get(k cacheKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cacheItem).data, true
}

func (c *cache) put(k cacheKey, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[k]; ok {
		return // somebody else read the same piece at the same time
	}
	c.items[k] = c.order.PushFront(&cacheItem{k, data})
	c.used += len(data)
	for c.used > c.max && c.order.Len() > 1 {
		old := c.order.Remove(c.order.Back()).(*cacheItem)
		delete(c.items, old.key)
		c.used -= len(old.data)
	}
}
