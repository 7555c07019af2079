package stripe

import (
	"context"
	"encoding/binary"
)

// remake computes a whole shard from k others. More than k are read only where some of those are not right.
func (s *Store) remake(ctx context.Context, v *view, sh shape, want int) (raw []byte, free func(), err error) {
	c := &column{shape: sh, view: v, asked: make([]span, len(sh.Seats)), cells: make([][][]byte, len(sh.Seats))}
	for i := range c.cells {
		c.cells[i] = make([][]byte, sh.cells)
	}
	wanted := make([]span, len(sh.Seats))
	wanted[want] = span{0, sh.cells}
	answers := make(chan fetched, len(sh.Seats))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, pending := 0, 0
	ask := func() {
		for ; next < len(sh.Seats); next++ {
			if next != want {
				i := next
				next++
				pending++
				go func() { answers <- c.fetch(ctx, i, span{0, sh.cells}) }()
				return
			}
		}
	}
	for range sh.K {
		ask()
	}
	for pending > 0 && !c.enough(wanted) {
		select {
		case f := <-answers:
			if pending--; !c.take(f) {
				ask()
			}
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if pending == 0 && !c.enough(wanted) {
			ask()
		}
	}
	if lost, ok := c.short(wanted); !ok {
		return nil, nil, lost
	}
	list, free := memory.take(1, sh.size())
	raw = list[0]
	return raw, free, c.compose(raw, want)
}

// compose writes a shard with its header and sums; its cells are computed in place.
func (c *column) compose(raw []byte, want int) error {
	enc, err := encoder(c.K, c.M)
	if err != nil {
		return err
	}
	copy(raw, c.header(want))
	seed := c.seed(want)
	row, required := make([][]byte, len(c.cells)), make([]bool, len(c.cells))
	required[want] = true
	for n := range c.shape.cells {
		payload, check := c.cell(raw, n)
		have := 0
		for i := range c.cells {
			row[i] = nil
			if i != want && have < c.K && c.cells[i][n] != nil {
				row[i] = c.cells[i][n]
				have++
			}
		}
		row[want] = payload[:0]
		if err := enc.ReconstructSome(row, required); err != nil {
			return err
		}
		if &row[want][0] != &payload[0] {
			copy(payload, row[want])
		}
		binary.LittleEndian.PutUint64(check, sum(seed, n, payload))
	}
	return nil
}
