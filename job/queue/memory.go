package queue

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a queue in this process: for one machine, and for tests. It is gone with the process, which the commands that use it
// outlive in no way: a run that was broken off is begun again, and finds by its points what is done.
type Memory struct {
	lease time.Duration

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when anything changes
	closed  bool
	byID    map[string]*item
	order   []*item
	turn    int
	dead    map[string]DeadLetter
	tables  map[string]*memoryTable
	last    uint64 // revision
}

// MemoryOptions change how a queue in memory works. Nil and zero fields are good defaults.
type MemoryOptions struct {
	Lease time.Duration // zero: 30 s
}

var _ Queue = (*Memory)(nil)

// NewMemory makes an empty queue.
func NewMemory(opts *MemoryOptions) *Memory {
	q := &Memory{lease: 30 * time.Second, changed: make(chan struct{}), byID: map[string]*item{},
		dead: map[string]DeadLetter{}, tables: map[string]*memoryTable{}}
	if opts != nil && opts.Lease > 0 {
		q.lease = opts.Lease
	}
	return q
}

// item is a message that waits or is taken.
type item struct {
	m          Message
	deliveries int
	taken      bool
	until      time.Time // taken: end of the lease; otherwise not before this
}

func (q *Memory) Lease() time.Duration { return q.lease }

func (q *Memory) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change()
	return nil
}

// change wakes all who wait. The caller holds mu.
func (q *Memory) change() {
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *Memory) Put(ctx context.Context, m Message) (bool, error) {
	if err := m.Check(); err != nil {
		return false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(ctx); err != nil {
		return false, err
	}
	return q.put(m), nil
}

func (q *Memory) usable(ctx context.Context) error {
	if q.closed {
		return ErrClosed
	}
	return ctx.Err()
}

func (q *Memory) put(m Message) bool {
	if q.byID[m.ID] != nil {
		return false
	}
	m.Body = slices.Clone(m.Body)
	i := &item{m: m}
	q.byID[m.ID] = i
	q.order = append(q.order, i)
	q.change()
	return true
}

func (q *Memory) Take(ctx context.Context, labels []string) (Delivery, error) {
	if len(labels) == 0 {
		return nil, fmt.Errorf("no label to take from: %w", ErrInvalid)
	}
	for {
		d, changed, next, err := q.tryTake(ctx, labels)
		if d != nil || err != nil {
			return d, err
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// tryTake takes a message, or tells what to wait for.
func (q *Memory) tryTake(ctx context.Context, labels []string) (_ Delivery, changed chan struct{}, next time.Time, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(ctx); err != nil {
		return nil, nil, next, err
	}
	now := time.Now()
	next = now.Add(time.Minute)
	q.turn++
	for k := range labels {
		label := labels[(q.turn+k)%len(labels)]
		for _, i := range q.order {
			switch {
			case i.m.Label != label:
			case i.until.After(now):
				if i.until.Before(next) {
					next = i.until
				}
			default:
				i.taken, i.until = true, now.Add(q.lease)
				i.deliveries++
				return &memoryDelivery{q: q, i: i, number: i.deliveries}, nil, next, nil
			}
		}
	}
	return nil, q.changed, next, nil
}

func (q *Memory) remove(i *item) {
	delete(q.byID, i.m.ID)
	q.order = slices.DeleteFunc(q.order, func(o *item) bool { return o == i })
	q.change()
}

func (q *Memory) Dead(ctx context.Context) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		q.mu.Lock()
		err := q.usable(ctx)
		list := slices.Collect(maps.Values(q.dead))
		q.mu.Unlock()
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
	}
}

func (q *Memory) Revive(ctx context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(ctx); err != nil {
		return err
	}
	d, ok := q.dead[id]
	if !ok {
		return fmt.Errorf("dead letter %q: %w", id, fs.ErrNotExist)
	}
	delete(q.dead, id)
	q.put(d.Message)
	return nil
}

func (q *Memory) Counts(ctx context.Context) (Counts, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := Counts{Dead: len(q.dead)}
	for _, i := range q.order {
		if i.taken && i.until.After(time.Now()) {
			c.Taken++
		} else {
			c.Waiting++
		}
	}
	return c, q.usable(ctx)
}

// memoryDelivery is one delivery. Its number is what tells it from a later one of the same message.
type memoryDelivery struct {
	q      *Memory
	i      *item
	number int
}

func (d *memoryDelivery) Message() Message { return d.i.m }
func (d *memoryDelivery) Number() int      { return d.number }

// mine runs f if this delivery still has the message.
func (d *memoryDelivery) mine(ctx context.Context, f func()) error {
	d.q.mu.Lock()
	defer d.q.mu.Unlock()
	if err := d.q.usable(ctx); err != nil {
		return err
	}
	if d.q.byID[d.i.m.ID] != d.i || d.i.deliveries != d.number || !d.i.taken || !d.i.until.After(time.Now()) {
		return fmt.Errorf("message %q: %w", d.i.m.ID, ErrLost)
	}
	f()
	return nil
}

func (d *memoryDelivery) Extend(ctx context.Context) error {
	return d.mine(ctx, func() { d.i.until = time.Now().Add(d.q.lease) })
}

func (d *memoryDelivery) Done(ctx context.Context) error {
	d.q.mu.Lock()
	defer d.q.mu.Unlock()
	if err := d.q.usable(ctx); err != nil {
		return err
	}
	if d.q.byID[d.i.m.ID] == d.i {
		d.q.remove(d.i)
	}
	return nil
}

func (d *memoryDelivery) Fail(ctx context.Context, delay time.Duration) error {
	return d.mine(ctx, func() {
		d.i.taken, d.i.until = false, time.Now().Add(max(delay, 0))
		d.q.change()
	})
}

func (d *memoryDelivery) Bury(ctx context.Context, why string) error {
	return d.mine(ctx, func() {
		d.q.dead[d.i.m.ID] = DeadLetter{d.i.m, Reason(why), time.Now().UTC()}
		d.q.remove(d.i)
	})
}
