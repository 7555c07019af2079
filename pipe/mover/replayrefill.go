package mover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// refill carries notes out again, as many at once as a copy has under way. Notes whose ranges overlap are never under
// way together, so that the later one has the last word.
type refill struct {
	w     *remoteWriter
	e     *epoch
	disks []*remoteDisk

	batch  []note
	ranges []pipe.Extent // of the batch, by offset
	own    bool          // the last error is one of making calls
}

// add takes the next note. Notes come by disk in any order; a batch is of one disk.
func (r *refill) add(ctx context.Context, n note) error {
	if int(n.disk) >= len(r.disks) {
		return fmt.Errorf("%w: a note is of disk %d of %d", ErrLostContent, n.disk, len(r.disks))
	}
	if len(r.batch) == wire.MaxIDs || len(r.batch) > 0 && r.batch[0].disk != n.disk || r.overlaps(n.extent) {
		if err := r.flush(ctx); err != nil {
			r.own = true
			return err
		}
	}
	at := r.position(n.extent.Off)
	r.ranges = slices.Insert(r.ranges, at, n.extent)
	r.batch = append(r.batch, n)
	return nil
}

// why says of an error that did not come from the other side that the notes are no good.
func (r *refill) why(err error) error {
	if r.own || errors.Is(err, ErrLostContent) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLostContent, err)
}

func (r *refill) position(off int64) int {
	return sort.Search(len(r.ranges), func(i int) bool { return r.ranges[i].Off >= off })
}

func (r *refill) overlaps(x pipe.Extent) bool {
	at := r.position(x.Off)
	return at < len(r.ranges) && r.ranges[at].Off < x.End() || at > 0 && r.ranges[at-1].End() > x.Off
}

// flush carries out the batch. Of a disk that was given up nothing needs to be there.
func (r *refill) flush(ctx context.Context) error {
	batch := r.batch
	r.batch, r.ranges = r.batch[:0], r.ranges[:0]
	if len(batch) == 0 {
		return nil
	}
	d := r.disks[batch[0].disk]
	if _, dropped := d.state(); dropped {
		return nil
	}
	known, err := r.query(ctx, d, batch)
	if err != nil {
		return err
	}
	first, rest := firstOfEach(batch, known)
	if err := r.carryOut(ctx, d, first, known); err != nil {
		return err
	}
	for _, n := range first {
		known[n.id] = true
	}
	return r.carryOut(ctx, d, rest, known)
}

// firstOfEach parts the blocks that must be brought from everything else: of equal ones only the first brings content.
func firstOfEach(batch []note, known map[pipe.ID]bool) (first, rest []note) {
	seen := map[pipe.ID]bool{}
	for _, n := range batch {
		if n.extent.Kind == pipe.Data && !known[n.id] && !seen[n.id] {
			seen[n.id] = true
			first = append(first, n)
		} else {
			rest = append(rest, n)
		}
	}
	return first, rest
}

func (r *refill) carryOut(ctx context.Context, d *remoteDisk, notes []note, known map[pipe.ID]bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(flight.Puts)
	for _, n := range notes {
		g.Go(func() error {
			if n.extent.Kind == pipe.Data {
				return r.place(ctx, d, n, known[n.id])
			}
			_, err := call[*wire.OK](ctx, r.e, &wire.Mark{Disk: d.ref, Extent: n.extent})
			return err
		})
	}
	return g.Wait()
}

// query asks which of the batch's blocks are known.
func (r *refill) query(ctx context.Context, d *remoteDisk, batch []note) (map[pipe.ID]bool, error) {
	known := map[pipe.ID]bool{}
	var ids []pipe.ID
	for _, n := range batch {
		if _, ok := known[n.id]; n.extent.Kind == pipe.Data && !ok {
			known[n.id] = false
			ids = append(ids, n.id)
		}
	}
	if len(ids) == 0 {
		return known, nil
	}
	answers, err := d.query(ctx, r.e, ids)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		known[id] = answers[i]
	}
	return known, nil
}

// place puts one block back: by its id where that is enough, else with the content that was kept.
func (r *refill) place(ctx context.Context, d *remoteDisk, n note, known bool) error {
	if known {
		call, _, err := d.put(ctx, r.e, n.extent.Off, n.id, int(n.extent.Len), nil)
		if err == nil {
			r.w.c.count(func(s *Stats) { s.Placed++ })
			if k := r.w.kept.find(n.id); k != nil {
				r.w.kept.placed(k, r.e, call)
			}
		}
		if !errors.Is(err, pipe.ErrNeedBlock) {
			return err
		}
	}
	k := r.w.kept.find(n.id)
	own := k != nil
	if !own {
		k = r.w.c.findKept(n.id)
	}
	if k == nil {
		return fmt.Errorf("%w: block %v at %d of disk %q", ErrLostContent, n.id, n.extent.Off, d.key)
	}
	call, _, err := d.put(ctx, r.e, n.extent.Off, n.id, int(n.extent.Len), k)
	if err != nil {
		return err
	}
	if own {
		r.w.kept.placed(k, r.e, call)
	}
	r.w.c.count(func(s *Stats) { s.Resent += int64(len(k.data)) })
	return nil
}

// findKept looks for a block's content at all writers: one may have been known because another point that is being
// written brought it.
func (c *Client) findKept(id pipe.ID) *kept {
	c.mu.Lock()
	writers := slices.Collect(maps.Keys(c.writers))
	c.mu.Unlock()
	for _, w := range writers {
		if k := w.kept.find(id); k != nil {
			return k
		}
	}
	return nil
}
