package xfs

import (
	"context"
	"sort"
)

// ends is what of the log a replay needs: the records from tail up to head. Clean: there are none.
type ends struct {
	head, tail int64 // blocks
	headCycle  uint32
	clean      bool
}

// recordSpan is the most that one record takes with its header, in blocks, as the search counts it.
const recordSpan = maxRecord / logBlock

// findEnds finds the log's head and tail. The head is where the cycle falls; several records may have been on their way
// when writing stopped, in any order, so that blocks before it may be missing. Those and what is after them is dropped,
// as the kernel drops it: nobody was ever told that they are durable.
func (r *ring) findEnds(ctx context.Context) (e ends, err error) {
	if e.head, e.headCycle, err = r.findHead(ctx); err != nil {
		return e, err
	}
	last, err := r.lastRecord(ctx, e.head, e.head)
	if err != nil {
		return e, err
	}
	if clean, err := r.unmounted(ctx, last, e.head); err != nil || clean {
		e.clean, e.tail = clean, e.head
		return e, err
	}
	if last, err = r.dropTorn(ctx, &e, last); err != nil {
		return e, err
	}
	e.tail = int64(uint32(last.tail))
	if e.tail >= r.blocks || last.tail > last.lsn {
		return e, r.corrupt(last.block, "its tail is %d:%d", last.tail>>32, uint32(last.tail))
	}
	e.clean, err = r.unmounted(ctx, last, e.head)
	return e, err
}

// findHead finds the block after the last one that was written, and its cycle.
func (r *ring) findHead(ctx context.Context) (head int64, cycle uint32, err error) {
	first, err := r.cycle(ctx, 0)
	if err != nil {
		return 0, 0, err
	}
	last, err := r.cycle(ctx, r.blocks-1)
	if err != nil {
		return 0, 0, err
	}
	if first == 0 {
		return 0, 0, r.corrupt(0, "it is empty")
	}
	head, missing := r.blocks, last-1
	if first != last {
		if last != 0 && last != first-1 {
			return 0, 0, r.corrupt(0, "cycles %d and %d at its ends", first, last)
		}
		missing = last
		if head, err = r.firstOf(ctx, last); err != nil {
			return 0, 0, err
		}
	}
	if head, err = r.dropGaps(ctx, head, missing, first == last || last == 0); err != nil {
		return 0, 0, err
	}
	if head, err = r.dropPartial(ctx, head); err != nil {
		return 0, 0, err
	}
	if head == r.blocks {
		return 0, first + 1, nil
	}
	if cycle, err = r.cycleBefore(ctx, head); err != nil {
		return 0, 0, err
	}
	return head, cycle, nil
}

// cycleBefore is the cycle in which the next record at head would be written.
func (r *ring) cycleBefore(ctx context.Context, head int64) (uint32, error) {
	if head > 0 {
		return r.cycle(ctx, head-1)
	}
	c, err := r.cycle(ctx, r.blocks-1)
	return c + 1, err
}

// firstOf finds the first block of the older cycle by halving.
func (r *ring) firstOf(ctx context.Context, cycle uint32) (int64, error) {
	var failed error
	n := sort.Search(int(r.blocks), func(i int) bool {
		if failed != nil {
			return true
		}
		c, err := r.cycle(ctx, int64(i))
		failed = err
		return err == nil && c == cycle
	})
	return int64(n), failed
}

// dropGaps looks back from head over all that may have been in flight for a block that still is of the cycle before.
// That is the head then.
func (r *ring) dropGaps(ctx context.Context, head int64, missing uint32, whole bool) (int64, error) {
	window := min(r.blocks, maxInFlight*recordSpan)
	if head < window && !whole {
		// The window goes over the ring's end, where the cycle is one less.
		gap, err := r.findCycle(ctx, r.blocks-(window-head), r.blocks, missing-1)
		if err != nil || gap >= 0 {
			return gap, err
		}
	}
	gap, err := r.findCycle(ctx, max(0, head-window), head, missing)
	if err != nil || gap < 0 {
		return head, err
	}
	return gap, nil
}

// findCycle is the first block of [from, to) that is of a cycle, or -1.
func (r *ring) findCycle(ctx context.Context, from, to int64, cycle uint32) (int64, error) {
	buf := make([]byte, 128*logBlock)
	for from < to {
		part := buf[:min(int64(len(buf)), (to-from)*logBlock)]
		if err := r.read(ctx, part, from); err != nil {
			return -1, err
		}
		for i := 0; i < len(part); i += logBlock {
			if cycleOf(part[i:]) == cycle {
				return from + int64(i/logBlock), nil
			}
		}
		from += int64(len(part) / logBlock)
	}
	return -1, nil
}

// dropPartial moves head back to the beginning of the last record if that does not end at head.
func (r *ring) dropPartial(ctx context.Context, head int64) (int64, error) {
	last, err := r.lastRecord(ctx, head%r.blocks, head%r.blocks)
	if err != nil {
		return head, err
	}
	if last.block+last.head+last.roundup == head || last.next(r) == head%r.blocks {
		return head, nil
	}
	return last.block, nil
}

// lastRecord finds the last record that begins before head, looking back no further than to stop.
func (r *ring) lastRecord(ctx context.Context, head, stop int64) (*record, error) {
	limit := r.distance(stop, head)
	if limit == 0 {
		limit = r.blocks
	}
	limit = min(limit, 2*maxInFlight*recordSpan)
	b := make([]byte, 128*logBlock)
	for back := int64(0); back < limit; {
		n := min(int64(len(b)/logBlock), limit-back)
		from := (head - back - n + 2*r.blocks) % r.blocks
		if err := r.read(ctx, b[:n*logBlock], from); err != nil {
			return nil, err
		}
		for i := n - 1; i >= 0; i-- {
			if be.Uint32(b[i*logBlock:]) == logMagic {
				return r.parseHead(b[i*logBlock:(i+1)*logBlock], (from+i)%r.blocks)
			}
		}
		back += n
	}
	return nil, r.corrupt(head, "no record before its head")
}

// unmounted says whether the last record is the one that an unmount writes: nothing is left to replay.
func (r *ring) unmounted(ctx context.Context, last *record, head int64) (bool, error) {
	if last.next(r) != head || last.ops != 1 {
		return false, nil
	}
	_, data, err := r.load(ctx, last.block, make([]byte, bufLen))
	if isCorrupt(err) {
		return false, nil // dropTorn will find it
	}
	if err != nil {
		return false, err
	}
	return len(data) >= opHead && data[9]&opUnmount != 0, nil
}

// dropTorn verifies the records that may have been in flight. From the first bad one on they are dropped. It returns the
// last one that is good.
func (r *ring) dropTorn(ctx context.Context, e *ends, last *record) (*record, error) {
	tail := int64(uint32(last.tail))
	if tail >= r.blocks {
		return nil, r.corrupt(last.block, "its tail is %d:%d", last.tail>>32, uint32(last.tail))
	}
	first := last
	for range maxInFlight - 1 {
		if first.block == tail {
			break
		}
		before, err := r.lastRecord(ctx, first.block, tail)
		if err != nil {
			if !isCorrupt(err) {
				return nil, err
			}
			break
		}
		first = before
	}
	buf := make([]byte, bufLen)
	var good *record
	for at := first.block; at != e.head; {
		h, _, err := r.load(ctx, at, buf)
		if isCorrupt(err) {
			return r.cutAt(ctx, e, at, tail, good)
		}
		if err != nil {
			return nil, err
		}
		if r.distance(at, e.head) < h.head+h.roundup {
			return r.cutAt(ctx, e, at, tail, good)
		}
		good, at = h, h.next(r)
	}
	return good, nil
}

// cutAt makes the first bad record the head. What its cycle is does not change: the record before it is of it, or of the
// one before where the ring begins anew.
func (r *ring) cutAt(ctx context.Context, e *ends, at, tail int64, good *record) (_ *record, err error) {
	if good == nil {
		if good, err = r.lastRecord(ctx, at, tail); err != nil {
			return nil, err
		}
	}
	e.head = at
	e.headCycle, err = r.cycleBefore(ctx, at)
	if int64(uint32(good.tail)) == at {
		return nil, r.corrupt(at, "a record is damaged, and none before it can be replayed")
	}
	return good, err
}
