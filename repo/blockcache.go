package repo

import (
	"sync"

	"github.com/hikae/hikae/pipe"
)

// blockCache keeps a few decoded blocks: neighbours on a disk are often assembled from the same ones.
type blockCache struct {
	mu    sync.Mutex
	m     map[pipe.ID][]byte
	order []pipe.ID // the next to go first
	bytes int
}

const maxCachedBytes = 8 << 20

func (c *blockCache) get(id pipe.ID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.m[id]
	return b, ok
}

func (c *blockCache) put(id pipe.ID, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[pipe.ID][]byte{}
	}
	if _, ok := c.m[id]; ok {
		return
	}
	c.m[id] = b
	c.order = append(c.order, id)
	c.bytes += len(b)
	for c.bytes > maxCachedBytes && len(c.order) > 1 {
		c.bytes -= len(c.m[c.order[0]])
		delete(c.m, c.order[0])
		c.order = c.order[1:]
	}
}
