package ntfs

import (
	"context"
	"sync"
)

// lru keeps the values that were used last, up to a weight. The zero value with most set is ready.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	most  int // weight
	held  int
	clock int64
	slots map[K]*slot[V]
}

type slot[V any] struct {
	value  V
	weight int
	used   int64
}

func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.slots[key]
	if !ok {
		var none V
		return none, false
	}
	c.clock++
	s.used = c.clock
	return s.value, true
}

// put keeps a value unless it is too heavy to be kept with anything else.
func (c *lru[K, V]) put(key K, value V, weight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.slots[key]; twice || weight > c.most {
		return
	}
	for c.held+weight > c.most {
		c.dropOldest()
	}
	if c.slots == nil {
		c.slots = map[K]*slot[V]{}
	}
	c.clock++
	c.slots[key] = &slot[V]{value, weight, c.clock}
	c.held += weight
}

// dropOldest looks at all: there are never more than a few hundred.
func (c *lru[K, V]) dropOldest() {
	var oldest K
	least := int64(-1)
	for k, s := range c.slots {
		if least < 0 || s.used < least {
			oldest, least = k, s.used
		}
	}
	c.held -= c.slots[oldest].weight
	delete(c.slots, oldest)
}

// unitCache keeps decoded compression units, for readers that ask for less than one at a time.
type unitCache struct{ lru[unitKey, []byte] }

type unitKey struct {
	s *stream
	k int64
}

// get is one decoded unit; the caller does not change it.
func (c *unitCache) get(ctx context.Context, s *stream, k int64) ([]byte, error) {
	if p, ok := c.lru.get(unitKey{s, k}); ok {
		return p, nil
	}
	p := make([]byte, s.unit)
	if err := s.decodeUnit(ctx, p, k); err != nil {
		return nil, err
	}
	c.put(unitKey{s, k}, p, len(p))
	return p, nil
}

// reset forgets everything.
func (c *lru[K, V]) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots, c.held = nil, 0
}
