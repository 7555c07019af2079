package stripe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// ReadAt reads the cells that the range touches from the data shards that have them. Cells that are lost, damaged or late
// are computed from the cells of the same number in other shards. Nothing is mended: that is what a rebuild is for.
// Where too little is right, the error is a [LostError] and n is 0.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := s.begin(ctx, off >= 0 && store.ValidName(name)); err != nil {
		return 0, fail("read", name, err)
	}
	defer s.work.Done()
	if reserved(name) {
		return 0, fail("read", name, store.ErrForeign)
	}
	remembered := s.known.get(name) != nil
	n, err := s.readAt(ctx, name, p, off)
	if remembered && gone(err) {
		s.known.drop(name)
		n, err = s.readAt(ctx, name, p, off)
	}
	if err == io.EOF {
		return n, err
	}
	return n, fail("read", name, err)
}

func (s *Store) readAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	r, err := s.lookup(ctx, name)
	if err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= r.Length {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.Length-off))
	if r.Striped {
		err = s.gather(ctx, shapeOf(r), p[:n], off)
	} else {
		copy(p[:n], r.Content[off:])
	}
	switch {
	case err != nil && s.vanished(ctx, r, err):
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, err
	case n < len(p):
		return n, io.EOF
	}
	return n, nil
}

// vanished says whether an object whose shards are not found has been removed since its record was read.
func (s *Store) vanished(ctx context.Context, r *record, err error) bool {
	if !gone(err) {
		return false
	}
	_, err = s.fresh(ctx, r.Name)
	return errors.Is(err, fs.ErrNotExist)
}

// gone says whether too little was read because shards are not there. Where members merely do not answer, asking again would only make
// the caller wait twice.
func gone(err error) bool {
	var lost *LostError
	return errors.As(err, &lost) && lost.gone
}

// column is what has been read of an object: cells by shard and number, over a window of cell numbers.
type column struct {
	shape
	view  *view
	cells [][][]byte // [shard][cell−from]: nil: not known to be right
	asked []span     // by shard
	from  int
	errs  []error
	gone  bool // a shard is not there
}

// span is cells [a, b).
type span struct{ a, b int }

// fetched is an answer of one member.
type fetched struct {
	shard int
	span  span
	raw   []byte
	err   error
	gone  bool // the member says that it has no such shard
}

// gather fills p, which is within the object, from its shards.
func (s *Store) gather(ctx context.Context, sh shape, p []byte, off int64) error {
	c, want := newColumn(s.view(), sh, off, int64(len(p)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan fetched, 2*len(sh.Seats))
	pending := 0
	ask := func(i int, w span) {
		if w.a >= w.b {
			return
		}
		c.asked[i] = w
		pending++
		go func() { answers <- c.fetch(ctx, i, w) }()
	}
	for i, w := range want {
		ask(i, w)
	}
	late := c.late(want)
	hedged := false
	spread := func() { // ask everybody for the cells that are still missing
		if hedged {
			return
		}
		hedged = true
		lack := c.lacking(want)
		for i := range c.cells {
			for _, w := range lack.without(c.asked[i]) {
				ask(i, w)
			}
		}
	}
	if late {
		spread()
	}
	hedge := time.NewTimer(s.opts.Hedge)
	defer hedge.Stop()
	for pending > 0 && !c.enough(want) {
		select {
		case <-hedge.C:
			spread()
		case f := <-answers:
			pending--
			if !c.take(f) && pending < len(want) {
				spread()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if pending == 0 && !c.enough(want) {
			spread()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.mend(want); err != nil {
		return err
	}
	c.pour(p, off)
	return nil
}

// newColumn says which cells of which data shards a range is in.
func newColumn(v *view, sh shape, off, n int64) (*column, []span) {
	c := &column{shape: sh, view: v, asked: make([]span, len(sh.Seats)), cells: make([][][]byte, len(sh.Seats))}
	want := make([]span, len(sh.Seats))
	lo, hi := sh.cells, 0
	for i := range sh.K {
		begin, end := max(off-int64(i)*sh.width, 0), min(off+n-int64(i)*sh.width, sh.width)
		if begin >= end {
			continue
		}
		want[i] = span{int(begin / int64(sh.Cell)), int((end + int64(sh.Cell) - 1) / int64(sh.Cell))}
		lo, hi = min(lo, want[i].a), max(hi, want[i].b)
	}
	c.from = lo
	for i := range c.cells {
		c.cells[i] = make([][]byte, hi-lo)
	}
	return c, want
}

// late says whether somebody whose cells are wanted is not worth waiting for.
func (c *column) late(want []span) bool {
	for i, w := range want {
		if t := c.view.seats[c.Seats[i]]; w.a < w.b && t.member != nil && t.isLate() {
			return true
		}
	}
	return false
}

// fetch reads cells of one shard.
func (c *column) fetch(ctx context.Context, i int, w span) fetched {
	f := fetched{shard: i, span: w}
	t := c.view.seats[c.Seats[i]]
	if t.member == nil {
		f.err = fmt.Errorf("member %s: not there", c.view.Members[c.Seats[i]].Label)
		return f
	}
	begin := c.cellOff(w.a)
	end := c.cellOff(w.b-1) + int64(c.cellLen(w.b-1)) + cellSum
	f.raw, f.err = t.read(ctx, shardName(c.Attempt, i), begin, int(end-begin))
	f.gone = errors.Is(f.err, fs.ErrNotExist)
	f.err = of(t.member, f.err)
	return f
}

// take keeps the cells that are right, and says whether all were.
func (c *column) take(f fetched) bool {
	if f.err != nil {
		c.errs, c.gone = append(c.errs, f.err), c.gone || f.gone
		return false
	}
	seed, rest := c.seed(f.shard), f.raw
	right := true
	for n := f.span.a; n < f.span.b; n++ {
		size := c.cellLen(n)
		if len(rest) < size+cellSum {
			right = false
			break
		}
		payload, check := rest[:size], rest[size:size+cellSum]
		rest = rest[size+cellSum:]
		if binary.LittleEndian.Uint64(check) != sum(seed, n, payload) {
			right = false
			continue
		}
		c.cells[f.shard][n-c.from] = payload
	}
	if !right {
		label := c.view.Members[c.Seats[f.shard]].Label
		c.errs = append(c.errs, fmt.Errorf("member %s: shard %d: %w", label, f.shard, ErrDamaged))
	}
	return right
}

// lacking is the smallest span of all wanted cells that are not there.
func (c *column) lacking(want []span) span {
	lack := span{c.from + len(c.cells[0]), 0}
	for i, w := range want {
		for n := w.a; n < w.b; n++ {
			if c.cells[i][n-c.from] == nil {
				lack = span{min(lack.a, n), max(lack.b, n+1)}
			}
		}
	}
	return lack
}

// without is what is left of a span.
func (w span) without(had span) []span {
	if had.a >= had.b || had.b <= w.a || had.a >= w.b {
		return []span{w}
	}
	return []span{{w.a, had.a}, {had.b, w.b}}
}

// enough says whether every wanted cell is there or can be computed.
func (c *column) enough(want []span) bool {
	_, ok := c.short(want)
	return ok
}

// short finds the first wanted cell for which too few shards are right.
func (c *column) short(want []span) (at *LostError, ok bool) {
	for i, w := range want {
		for n := w.a; n < w.b; n++ {
			if c.cells[i][n-c.from] != nil {
				continue
			}
			if have := c.right(n); have < c.K {
				off := int64(i)*c.width + int64(n)*int64(c.Cell)
				return &LostError{Object: c.Name, Off: off, Length: min(int64(c.cellLen(n)), c.Length-off), Have: have, Need: c.K, Causes: c.errs, gone: c.gone}, false
			}
		}
	}
	return nil, true
}

// right is of how many shards cell n is there.
func (c *column) right(n int) (have int) {
	for i := range c.cells {
		if c.cells[i][n-c.from] != nil {
			have++
		}
	}
	return have
}

// mend computes the wanted cells that are missing.
func (c *column) mend(want []span) error {
	if lost, ok := c.short(want); !ok {
		return lost
	}
	enc, err := encoder(c.K, c.M)
	if err != nil {
		return err
	}
	row, required := make([][]byte, len(c.cells)), make([]bool, len(c.cells))
	for n := c.from; n < c.from+len(c.cells[0]); n++ {
		need := false
		for i := range c.cells {
			row[i] = c.cells[i][n-c.from]
			required[i] = row[i] == nil && want[i].a <= n && n < want[i].b
			need = need || required[i]
		}
		if !need {
			continue
		}
		if err := enc.ReconstructSome(row, required); err != nil {
			return err
		}
		for i := range c.cells {
			if required[i] {
				c.cells[i][n-c.from] = row[i]
			}
		}
	}
	return nil
}

// pour copies the range out of the cells.
func (c *column) pour(p []byte, off int64) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		i := at / c.width
		n, within := int(at%c.width/int64(c.Cell)), int(at%c.width%int64(c.Cell))
		done += copy(p[done:], c.cells[i][n-c.from][within:])
	}
}
