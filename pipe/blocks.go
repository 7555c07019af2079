package pipe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// work is what the pipe's own workers do for a target with blocks: fingerprint and compress. What is nearest to the
// target goes first, so that buffers come free.
func (c *copier) work(ctx context.Context, lastHasher func()) error {
	filled, fresh := c.filled, c.fresh
	for filled != nil || fresh != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case b, ok := <-fresh:
			if !ok {
				fresh = nil
			} else if err := c.compress(ctx, b); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-fresh:
			if !ok {
				fresh = nil
			} else if err := c.compress(ctx, b); err != nil {
				return err
			}
		case b, ok := <-filled:
			if ok {
				c.fingerprint(b)
			} else {
				filled = nil
				lastHasher()
			}
		}
	}
	return nil
}

// fingerprint cuts a batch into blocks, finds those that are zero or bad, and gives the others their ids.
func (c *copier) fingerprint(b *batch) {
	b.blocks = b.blocks[:0]
	for off := b.Off; off < b.End(); off += c.grain {
		n := min(c.grain, b.End()-off)
		b.blocks = append(b.blocks, block{batch: b, off: off, plain: b.buf[off-b.Off:][:n], kind: Data})
	}
	b.parts.Store(int32(len(b.blocks)))
	since := time.Now()
	for i := range b.blocks {
		b.blocks[i].kind = kindOf(&b.blocks[i])
	}
	now := time.Now()
	c.meters.spent[stageExclude].Add(int64(now.Sub(since)))
	for i := range b.blocks {
		if bl := &b.blocks[i]; bl.kind == Data {
			bl.id = c.blocks.Fingerprint(bl.plain)
		}
	}
	c.meters.clock(stageFingerprint, now)
	c.hashed <- b
	runtime.Gosched() // to those that ask and write: else much is read ahead, into cold memory, while they wait for a processor
}

// kindOf says what a block is that was read. One that is partly bad and otherwise zero is Bad: a point must never hide
// that it is degraded.
func kindOf(b *block) Kind {
	if !isZero(b.plain) {
		return Data
	}
	for _, e := range b.batch.bad {
		if e.Off < b.off+int64(len(b.plain)) && b.off < e.End() {
			return Bad
		}
	}
	return Zero
}

// ask is the deduplicate stage. It asks for as many batches at once as have gathered, so that a far target is asked
// seldom.
func (c *copier) ask(ctx context.Context) error {
	var batches []*batch
	var ids []ID
	for {
		b, ok, err := receive(ctx, c.hashed)
		if !ok {
			return err
		}
		batches = c.gather(append(batches[:0], b))
		ids = ids[:0]
		for _, b := range batches {
			for i := range b.blocks {
				if b.blocks[i].kind == Data {
					ids = append(ids, b.blocks[i].id)
				}
			}
		}
		missing, err := c.missing(ctx, ids)
		if err != nil {
			return err
		}
		for _, b := range batches {
			missing = c.dispatch(b, missing)
		}
	}
}

// gather appends what waits in hashed, without waiting for more.
func (c *copier) gather(batches []*batch) []*batch {
	for {
		select {
		case b, ok := <-c.hashed:
			if !ok {
				return batches
			}
			batches = append(batches, b)
		default:
			return batches
		}
	}
}

func (c *copier) missing(ctx context.Context, ids []ID) ([]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	since := time.Now()
	missing, err := c.blocks.Missing(ctx, ids)
	c.meters.clock(stageDeduplicate, since)
	if err == nil && len(missing) != len(ids) {
		err = fmt.Errorf("the target gave %d answers to %d ids", len(missing), len(ids))
	}
	if err != nil {
		return nil, fmt.Errorf("ask for missing blocks: %w", err)
	}
	return missing, nil
}

// dispatch sends the blocks of a batch their ways and returns the answers that are left for the next batch. After the
// last block was sent the batch may be gone.
func (c *copier) dispatch(b *batch, missing []bool) []bool {
	blocks := b.blocks
	for i := 0; i < len(blocks); {
		if kind := blocks[i].kind; kind != Data {
			n := 1
			for i+n < len(blocks) && blocks[i+n].kind == kind {
				n++
			}
			last := &blocks[i+n-1]
			e := Extent{blocks[i].off, last.off + int64(len(last.plain)) - blocks[i].off, kind}
			i += n
			c.ready <- item{batch: b, parts: []Extent{e}}
			continue
		}
		bl, isMissing := &blocks[i], missing[0]
		missing = missing[1:]
		i++
		switch {
		case !isMissing:
			c.ready <- item{block: bl}
		case c.flights.take(bl):
			c.fresh <- bl
		}
	}
	return missing
}

// blocksIn is how many blocks a range of whole blocks has; the last may be short.
func (c *copier) blocksIn(e Extent) int { return int((e.Len + c.grain - 1) / c.grain) }

// compress is the compress stage for one block. A near target may take the block as it is.
func (c *copier) compress(ctx context.Context, b *block) error {
	if c.assembler != nil {
		since := time.Now()
		res, ok, err := c.assembler.Assemble(ctx, b.off, b.id, b.plain)
		c.meters.clock(stageCompress, since)
		if err != nil {
			return &RangeError{Op: "put", Off: b.off, Len: int64(len(b.plain)), Err: err}
		}
		if ok {
			b.placed = &res
			c.ready <- item{block: b}
			return nil
		}
	}
	var out []byte
	if c.opts.Compression != None {
		var err error
		if out, err = c.outs.get(ctx); err != nil {
			return err
		}
	}
	c.encode(b, out)
	if b.codec == Plain && out != nil {
		b.out = nil
		c.outs.put(out)
	}
	c.ready <- item{block: b}
	return nil
}

func (c *copier) encode(b *block, out []byte) {
	since := time.Now()
	b.data, b.codec = c.enc.Encode(out, b.plain)
	b.out = out
	c.meters.clock(stageCompress, since)
}

// putBlock is the write stage for one block, and for those that waited for it.
func (c *copier) putBlock(ctx context.Context, b *block) error {
	for b != nil {
		if err := c.putOne(ctx, b); err != nil {
			return err
		}
		var next *block
		if b.pending {
			next = c.flights.land(b)
		} else {
			next = b.next
		}
		batch := b.batch
		if b.out != nil {
			c.outs.put(b.out[:0])
		}
		*b = block{}
		c.release(batch, 1)
		b = next
	}
	return nil
}

func (c *copier) putOne(ctx context.Context, b *block) error {
	if b.placed != nil {
		c.meters.moved.Add(int64(len(b.plain)) - b.placed.Deduplicated)
		c.meters.dedup.Add(b.placed.Deduplicated)
		c.meters.stored.Add(b.placed.Stored)
		c.meters.settle(int64(len(b.plain)))
		return nil
	}
	res, err := c.put(ctx, b)
	if errors.Is(err, ErrNeedBlock) && b.data == nil { // rare: what was promised is gone
		c.encode(b, nil)
		b.out = nil
		res, err = c.put(ctx, b)
	}
	if err != nil {
		return &RangeError{Op: "put", Off: b.off, Len: int64(len(b.plain)), Err: err}
	}
	if b.data != nil {
		c.meters.moved.Add(int64(len(b.plain)))
		if b.codec == Plain && LooksRandom(b.plain) {
			c.meters.random.Add(int64(len(b.plain)))
		}
	}
	c.meters.dedup.Add(res.Deduplicated)
	c.meters.stored.Add(res.Stored)
	c.meters.settle(int64(len(b.plain)))
	return nil
}

func (c *copier) put(ctx context.Context, b *block) (PutResult, error) {
	since := time.Now()
	res, err := c.blocks.PutBlock(ctx, b.off, b.id, len(b.plain), b.codec, b.data)
	c.meters.clock(stageWrite, since)
	return res, err
}

// flights are the missing blocks on their way to the target. A second block with the same content waits for the first
// instead of being sent as well.
type flights struct {
	mu sync.Mutex
	by map[ID]*block
}

func (f *flights) init() { f.by = make(map[ID]*block) }

// take reports whether b is the first with its content; if not, b waits for it.
func (f *flights) take(b *block) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, ok := f.by[b.id]
	if !ok {
		f.by[b.id], b.pending = b, true
		return true
	}
	b.next, first.next = first.next, b
	return false
}

// land ends the flight of b and returns the chain of those that waited.
func (f *flights) land(b *block) *block {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.by, b.id)
	return b.next
}
