package pipe

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// How many goroutines at least wait for the image and for the target. Both mostly wait, for a disk or a wire; more in
// flight hides their latency, and the buffers bound what that costs.
const (
	readerCount = 4
	askerCount  = 2
	minWriters  = 4
)

// copier is one copy under way: groups of goroutines joined by channels, see the package comment for a picture.
//
// The pools bound what is in flight. Every channel behind the first workers has room for all that the pools can hand
// out, so a stage never waits for the next one while it holds something that the next one needs: the flow cannot lock
// up. Only filled is short: a source that is faster than the workers need not run ahead of the processor's caches.
type copier struct {
	opts      CopyOptions
	reader    reader
	size      int64
	target    Target
	marker    ExtentTarget // nil where the target takes no marks
	blocks    BlockTarget  // nil where it takes no blocks
	assembler Assembler    // nil where it does not assemble
	grain     int64        // block size, or 0
	enc       *Encoder
	layout    layout
	meters    *meters

	batches *pool[*batch]
	outs    *pool[[]byte]
	flights flights

	reads  chan Extent // planner → readers
	marks  chan Extent // planner → writers
	filled chan *batch // readers → workers
	hashed chan *batch // workers → askers
	fresh  chan *block // askers → workers, to be compressed
	ready  chan item   // all of them → writers
}

// item is work for a writer: a block to put, a range to mark, or the ranges of a batch.
type item struct {
	block *block
	batch *batch // for a mark: holds the batch until the mark is made
	parts []Extent
}

func newCopier(target Target, img Image, o CopyOptions) (*copier, error) {
	c := &copier{opts: o, size: img.Size(), target: target, reader: reader{img: img, policy: o.OnReadError}}
	c.marker, _ = target.(ExtentTarget)
	c.blocks, _ = target.(BlockTarget)
	c.assembler, _ = target.(Assembler)
	if c.blocks != nil {
		bs := c.blocks.BlockSize()
		if bs <= 0 || bs > maxBlockSize || bs&(bs-1) != 0 {
			return nil, fmt.Errorf("the target's block size %d is not a power of two up to %d", bs, maxBlockSize)
		}
		c.grain = int64(bs)
		var err error
		if c.enc, err = NewEncoder(o.Compression, bs); err != nil {
			return nil, err
		}
	}
	flight := flightOf(target, img, o.Workers)
	c.layout = divide(o.bufferBytes(flight), int(c.grain), o.Workers+flight.Puts)
	c.batches = newPool(c.layout.batches, func() *batch { return &batch{buf: make([]byte, c.layout.batchBytes)} })
	c.outs = newPool(c.layout.outs, func() []byte { return make([]byte, 0, c.enc.bound(int(c.grain))) })
	c.flights.init()
	c.meters = &meters{size: c.size, start: time.Now()}
	c.meters.workers = [stageCount]int{
		stageRead: min(flight.Reads, c.layout.batches), stageExclude: o.Workers, stageWrite: flight.Puts,
	}
	if c.blocks != nil {
		c.meters.workers[stageFingerprint] = o.Workers
		c.meters.workers[stageDeduplicate] = flight.Asks
		c.meters.workers[stageCompress] = o.Workers
	}
	if lined, ok := target.(Lined); ok {
		c.meters.line, c.meters.begun = lined.Line, lined.Line()
	}
	c.makeChannels()
	return c, nil
}

func (c *copier) makeChannels() {
	parts := c.layout.batches
	if c.blocks != nil {
		parts *= c.layout.batchBytes / int(c.grain)
	}
	c.reads = make(chan Extent, c.meters.workers[stageRead])
	c.marks = make(chan Extent, 64)
	c.filled = make(chan *batch, c.opts.Workers)
	c.hashed = make(chan *batch, c.layout.batches)
	c.fresh = make(chan *block, parts)
	c.ready = make(chan item, parts)
}

// run starts all groups and waits for them. Each group closes the channel that only it, of those still running, sends
// to; so the end of the extents runs through the flow as the last thing in every channel.
func (c *copier) run(ctx context.Context) error {
	stop := c.report()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.plan(ctx) })
	n := c.meters.workers
	spawn(g, n[stageRead], func() error { return c.read(ctx) }, func() { close(c.filled) })
	if c.blocks != nil {
		hashers := lastOf(c.opts.Workers, func() { close(c.hashed) })
		spawn(g, c.opts.Workers, func() error { return c.work(ctx, hashers) }, func() { close(c.ready) })
		spawn(g, n[stageDeduplicate], func() error { return c.ask(ctx) }, func() { close(c.fresh) })
	} else {
		spawn(g, c.opts.Workers, func() error { return c.scan(ctx) }, func() { close(c.ready) })
	}
	spawn(g, n[stageWrite], func() error { return c.write(ctx) }, func() {})
	err := g.Wait()
	c.meters.finish()
	stop()
	return err
}

// spawn starts n goroutines; the last to end well calls done.
func spawn(g *errgroup.Group, n int, work func() error, done func()) {
	last := lastOf(n, done)
	for range n {
		g.Go(func() error {
			if err := work(); err != nil {
				return err
			}
			last()
			return nil
		})
	}
}

// lastOf returns a function of which the nth call calls done.
func lastOf(n int, done func()) func() {
	left := atomic.Int32{}
	left.Store(int32(n))
	return func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
}

// report calls Progress until the returned function is called, and once then.
func (c *copier) report() (stop func()) {
	if c.opts.Progress == nil {
		return func() {}
	}
	tell := func() {
		c.opts.Progress(Progress{Total: c.size, Done: c.meters.settled.Load(), Stats: c.meters.stats()})
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell()
			case <-quit:
				tell()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// plan is the first half of the exclude stage: it turns the image's extents into reads and marks.
func (c *copier) plan(ctx context.Context) error {
	defer close(c.reads)
	defer close(c.marks)
	seq := checkedExtents(ctx, c.reader.img)
	if c.blocks != nil {
		seq = alignExtents(c.noteBad(seq), c.grain, c.size)
	} else {
		seq = c.noteBad(seq)
	}
	since := time.Now()
	for e, err := range seq {
		c.meters.walk.Add(int64(time.Since(since)))
		if err != nil {
			return err
		}
		if e.Kind != Data {
			err = send(ctx, c.marks, e)
		} else {
			err = c.planReads(ctx, e)
		}
		if err != nil {
			return err
		}
		since = time.Now()
	}
	c.meters.walk.Add(int64(time.Since(since)))
	return nil
}

// noteBad remembers the ranges that the image itself calls bad, to the byte, before they are aligned.
func (c *copier) noteBad(seq func(func(Extent, error) bool)) func(func(Extent, error) bool) {
	return func(yield func(Extent, error) bool) {
		for e, err := range seq {
			if err == nil && e.Kind == Bad {
				err = c.meters.addBad(e)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// planReads cuts a range at multiples of the read size, so that the reads after the first are aligned.
func (c *copier) planReads(ctx context.Context, e Extent) error {
	step := int64(c.layout.batchBytes)
	for e.Len > 0 {
		n := min(e.Len, step-e.Off&(step-1))
		if err := send(ctx, c.reads, Extent{e.Off, n, Data}); err != nil {
			return err
		}
		e.Off, e.Len = e.Off+n, e.Len-n
	}
	return nil
}

// read is the read stage.
func (c *copier) read(ctx context.Context) error {
	for {
		e, ok, err := receive(ctx, c.reads)
		if !ok {
			return err
		}
		b, err := c.batches.get(ctx)
		if err != nil {
			return err
		}
		b.Extent = e
		since := time.Now()
		b.bad, err = c.reader.read(ctx, b.bytes(), e.Off)
		c.meters.clock(stageRead, since)
		if err != nil {
			return err
		}
		if len(b.bad) > 0 {
			if err := c.meters.addBad(b.bad...); err != nil {
				return err
			}
		}
		c.meters.read.Add(e.Len - total(b.bad))
		if err := send(ctx, c.filled, b); err != nil {
			return err
		}
	}
}

func total(list []Extent) (n int64) {
	for _, e := range list {
		n += e.Len
	}
	return n
}

// write is the write stage: marks of the plan as they come, and what the workers made ready.
func (c *copier) write(ctx context.Context) error {
	marks, ready := c.marks, c.ready
	for marks != nil || ready != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-marks:
			if !ok {
				marks = nil
			} else {
				err = c.mark(ctx, e)
			}
		case it, ok := <-ready:
			switch {
			case !ok:
				ready = nil
			case it.block != nil:
				err = c.putBlock(ctx, it.block)
			default:
				err = c.writeParts(ctx, it)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mark tells a target that can be told, and counts.
func (c *copier) mark(ctx context.Context, e Extent) error {
	if c.marker != nil {
		since := time.Now()
		err := c.marker.Mark(ctx, e)
		c.meters.clock(stageWrite, since)
		if err != nil {
			return &RangeError{Op: "mark " + e.Kind.String(), Off: e.Off, Len: e.Len, Err: err}
		}
	}
	c.meters.skip(e)
	return nil
}

// release says that n parts of a batch are settled.
func (c *copier) release(b *batch, n int) {
	if b.parts.Add(int32(-n)) == 0 {
		b.bad = nil
		c.batches.put(b)
	}
}

func send[T any](ctx context.Context, ch chan<- T, v T) error {
	select {
	case ch <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receive waits for the next value. It is not ok at the end of the channel, without an error, and when ctx is done.
func receive[T any](ctx context.Context, ch <-chan T) (v T, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return v, false, err
	}
	select {
	case v, ok = <-ch:
		return v, ok, nil
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
}
