package pipe

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// CompareOptions change how [Compare] works. Nil and zero fields are good defaults.
type CompareOptions struct {
	// Workers is how many ranges are read at once. Zero: two for each processor.
	Workers int
	// Limit is how many differing ranges are returned at most; what comes after the last of them was not looked at.
	// Zero: one.
	Limit int
	// IgnoreDropped leaves out ranges that either image calls Free, Swap, Excluded or Bad: a restored disk is compared
	// with its source this way.
	IgnoreDropped bool
}

func (o *CompareOptions) withDefaults() (CompareOptions, error) {
	var c CompareOptions
	if o != nil {
		c = *o
	}
	if c.Workers < 0 || c.Workers > maxWorkers || c.Limit < 0 {
		return c, fmt.Errorf("compare with %d workers and limit %d", c.Workers, c.Limit)
	}
	if c.Workers == 0 {
		c.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	if c.Limit == 0 {
		c.Limit = 1
	}
	return c, nil
}

// Compare reports where two images differ: nil where they are the same content. The first differing range starts at
// the first differing byte; equal stretches shorter than a sector do not end a range. Where the sizes differ, all of the
// longer image beyond the shorter one differs.
//
// What both images call Zero is not read; where one does, only the other is read. Errors are a [*RangeError].
func Compare(ctx context.Context, a, b Image, opts *CompareOptions) (diff []Extent, err error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	size := min(a.Size(), b.Size())
	c := comparer{a: a, b: b, opts: o}
	diff, err = c.run(ctx, size)
	if err != nil {
		return nil, err
	}
	if longer := max(a.Size(), b.Size()); longer > size && len(diff) < o.Limit {
		diff = mergeExtents(append(diff, Extent{size, longer - size, Data}))
	}
	return diff, nil
}

// comparer is one comparison under way. Ranges are cut and queued in order, read by several workers, and looked at in
// order, so that the first difference is the first.
type comparer struct {
	a, b Image
	opts CompareOptions
}

// pair is one range to compare and its result.
type pair struct {
	off, n       int64
	readA, readB bool // false: known to be zero
	diff         []Extent
	done         chan struct{}
}

func (c *comparer) run(ctx context.Context, size int64) ([]Extent, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	todo := make(chan *pair)                    // planner → workers
	order := make(chan *pair, 4*c.opts.Workers) // planner → collector, the bound of what is ahead
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		return c.plan(ctx, size, todo, order)
	})
	for range c.opts.Workers {
		g.Go(func() error { return c.work(ctx, todo) })
	}
	var diff []Extent
	full := false
	g.Go(func() error {
		for p := range order {
			select {
			case <-p.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			for _, e := range p.diff {
				diff = joinDiff(diff, e)
			}
			if full = len(diff) > c.opts.Limit; full {
				return errEnough
			}
		}
		return nil
	})
	err := g.Wait()
	if full && err == errEnough {
		return diff[:c.opts.Limit], nil
	}
	return diff, err
}

// errEnough ends a comparison early. One range more than wanted is looked for, because the last may still grow.
var errEnough = fmt.Errorf("enough differences")

// plan cuts the common part of the images where their kinds change and at multiples of the read size.
func (c *comparer) plan(ctx context.Context, size int64, todo, order chan<- *pair) error {
	for p, err := range c.pairs(ctx, size) {
		if err != nil {
			return err
		}
		for p.n > 0 {
			n := min(p.n, readBytes-p.off&(readBytes-1))
			q := &pair{off: p.off, n: n, readA: p.readA, readB: p.readB, done: make(chan struct{})}
			if err := send(ctx, order, q); err != nil {
				return err
			}
			if err := send(ctx, todo, q); err != nil {
				return err
			}
			p.off, p.n = p.off+n, p.n-n
		}
	}
	return nil
}

// pairs yields the ranges that must be read, of both images or of one.
func (c *comparer) pairs(ctx context.Context, size int64) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		nextA, stopA := iter.Pull2(checkExtents(ctx, Extents(ctx, c.a, 0, size), 0, size))
		defer stopA()
		nextB, stopB := iter.Pull2(checkExtents(ctx, Extents(ctx, c.b, 0, size), 0, size))
		defer stopB()
		var ea, eb Extent
		for off := int64(0); off < size; {
			err := advance(&ea, off, nextA)
			if err == nil {
				err = advance(&eb, off, nextB)
			}
			if err != nil {
				yield(pair{}, err)
				return
			}
			p := pair{off: off, n: min(ea.End(), eb.End()) - off, readA: ea.Kind != Zero, readB: eb.Kind != Zero}
			off += p.n
			dropped := ea.Kind.Dropped() || eb.Kind.Dropped()
			if p.readA || p.readB {
				if !(dropped && c.opts.IgnoreDropped) && !yield(p, nil) {
					return
				}
			}
		}
		for _, next := range []func() (Extent, error, bool){nextA, nextB} { // what is wrong after the last byte
			if _, err, _ := next(); err != nil {
				yield(pair{}, err)
				return
			}
		}
	}
}

// advance takes the next extent where e ends at off.
func advance(e *Extent, off int64, next func() (Extent, error, bool)) (err error) {
	if e.End() <= off {
		*e, err, _ = next()
	}
	return err
}

func (c *comparer) work(ctx context.Context, todo <-chan *pair) error {
	bufA, bufB := make([]byte, readBytes), make([]byte, readBytes)
	for {
		p, ok, err := receive(ctx, todo)
		if !ok {
			return err
		}
		x, err := load(ctx, c.a, p.readA, bufA[:p.n], p.off)
		if err != nil {
			return fmt.Errorf("first image: %w", err)
		}
		y, err := load(ctx, c.b, p.readB, bufB[:p.n], p.off)
		if err != nil {
			return fmt.Errorf("second image: %w", err)
		}
		p.diff = differences(x, y, p.off, c.opts.Limit+1)
		close(p.done)
	}
}

func load(ctx context.Context, img Image, read bool, p []byte, off int64) ([]byte, error) {
	if !read {
		clear(p)
		return p, nil
	}
	return p, readFull(ctx, img, p, off)
}

// differences are the first limit ranges in which x and y, which start at off, differ.
func differences(x, y []byte, off int64, limit int) (diff []Extent) {
	if bytes.Equal(x, y) {
		return nil
	}
	for i := 0; i < len(x); {
		n := min(zeroCell, len(x)-i)
		if bytes.Equal(x[i:i+n], y[i:i+n]) {
			i += n
			continue
		}
		for end := i + n; i < end; i++ {
			if x[i] != y[i] {
				if diff = joinDiff(diff, Extent{off + int64(i), 1, Data}); len(diff) > limit {
					return diff[:limit]
				}
			}
		}
	}
	return diff
}

// joinDiff appends e, or lets the last range grow over it where less than a sector lies between.
func joinDiff(diff []Extent, e Extent) []Extent {
	if n := len(diff); n > 0 && e.Off-diff[n-1].End() < sectorSize {
		diff[n-1].Len = e.End() - diff[n-1].Off
		return diff
	}
	return append(diff, e)
}
