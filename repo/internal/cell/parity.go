package cell

import (
	"math/bits"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// encode computes the parity of shards[:g.N] into shards[g.N:].
func encode(g Geometry, shards [][]byte) error {
	if g.Code == CodeCopy {
		for _, p := range shards[1:] {
			copy(p, shards[0])
		}
		return nil
	}
	enc, err := encoders.get(g.N, g.M)
	if err != nil {
		return err
	}
	return enc.Encode(shards)
}

// reconstruct fills the lost shards: those of length 0 that have the capacity of a payload. Unless all is set, only
// data shards are filled, and lost parity may be nil. At least g.N shards must be there.
func reconstruct(g Geometry, shards [][]byte, all bool) error {
	if g.Code == CodeCopy {
		spread(shards, all)
		return nil
	}
	enc, err := encoders.get(g.N, g.M)
	switch {
	case err != nil:
		return err
	case all:
		return enc.Reconstruct(shards)
	}
	return enc.ReconstructData(shards)
}

func spread(shards [][]byte, all bool) {
	var good []byte
	for _, s := range shards {
		if len(s) > 0 {
			good = s
		}
	}
	for i, s := range shards {
		if len(s) == 0 && (all || i == 0) {
			copy(s[:Payload], good)
		}
	}
}

// encoders keeps coders by their numbers of cells: full packs share one, and the matrix of a large code 2 takes
// longer to make than to use. No goroutines inside: writers and scrubs already run one object per core.
var encoders = coderCache{coders: map[[2]int]reedsolomon.Encoder{}}

const maxCoders = 64

type coderCache struct {
	mu     sync.Mutex
	coders map[[2]int]reedsolomon.Encoder
}

func (c *coderCache) get(n, m int) (reedsolomon.Encoder, error) {
	key := [2]int{n, m}
	c.mu.Lock()
	enc, ok := c.coders[key]
	c.mu.Unlock()
	if ok {
		return enc, nil
	}
	enc, err := reedsolomon.New(n, m,
		reedsolomon.WithMaxGoroutines(1),
		reedsolomon.WithInversionCache(false), // grows with every pattern of loss
		reedsolomon.WithWorkAllocator(&workPools))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.coders) >= maxCoders {
		for old := range c.coders { // any: the pick of a map's order is as good as a clock
			delete(c.coders, old)
			break
		}
	}
	c.coders[key] = enc
	return enc, nil
}

// workPools is the work memory of all Leopard coders: payloads, by the power of two of their number. To write a pack of
// 16 MiB takes 1 MiB of it, to repair one 32 MiB.
var workPools workPool

type workPool [32]sync.Pool

func (p *workPool) Get(n, size int) [][]byte {
	class := bits.Len(uint(n - 1))
	if w, ok := p[class].Get().(*[][]byte); ok && len((*w)[0]) >= size {
		return (*w)[:n]
	}
	return reedsolomon.AllocAligned(1<<class, max(size, Payload))[:n]
}

func (p *workPool) Put(work [][]byte) {
	if cap(work) == 0 {
		return
	}
	work = work[:cap(work)]
	if class := bits.Len(uint(len(work) - 1)); len(work) == 1<<class {
		p[class].Put(&work)
	}
}
