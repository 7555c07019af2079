package xfs

import (
	"container/list"
	"context"
	"sync"
)

// cacheBytes bounds the blocks that are kept between look-ups: upper levels of trees, and inodes that lie together.
const cacheBytes = 8 << 20

// cache keeps the blocks that were used last. What is in it was verified and is never changed.
type cache struct {
	mu    sync.Mutex
	byOff map[cacheKey]*list.Element
	order list.List // of *cached, the latest first
	bytes int
}

type cacheKey struct {
	off int64
	n   int
}

type cached struct {
	key cacheKey
	b   []byte
}

func newCache() *cache { return &cache{byOff: map[cacheKey]*list.Element{}} }

func (c *cache) get(k cacheKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byOff[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).b
}

func (c *cache) put(k cacheKey, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byOff[k] != nil {
		return
	}
	c.byOff[k] = c.order.PushFront(&cached{k, b})
	for c.bytes += len(b); c.bytes > cacheBytes; {
		last := c.order.Remove(c.order.Back()).(*cached)
		delete(c.byOff, last.key)
		c.bytes -= len(last.b)
	}
}

// cached reads n bytes at off, or finds them where they were read before. The caller must not change them.
func (f *FS) cached(ctx context.Context, off int64, n int, verify func(b []byte, patched bool) error) ([]byte, error) {
	k := cacheKey{off, n}
	if b := f.cache.get(k); b != nil {
		return b, nil
	}
	b := make([]byte, n)
	patched, err := f.after.read(ctx, b, off)
	if err != nil {
		return nil, err
	}
	if err := verify(b, patched); err != nil {
		return nil, err
	}
	f.cache.put(k, b)
	return b, nil
}
