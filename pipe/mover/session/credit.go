package session

import (
	"context"
	"slices"
)

// credit is what may be under way at once. Whoever does not fit waits, the first first. The link's lock holds it.
type credit struct {
	maxCalls int
	window   int64 // bytes
	calls    int
	bytes    int64
	waiting  []*waiter
}

type waiter struct {
	cost  int64
	ready chan struct{}
	in    bool
}

// fits reports whether a call may start. One alone always may, whatever it costs.
func (c *credit) fits(cost int64) bool {
	return c.calls < c.maxCalls && (c.calls == 0 || c.bytes+cost <= c.window)
}

func (c *credit) take(cost int64) {
	c.calls++
	c.bytes += cost
}

// give returns what a call took.
func (c *credit) give(cost int64) {
	c.calls--
	c.bytes -= cost
	c.admit()
}

// admit lets in who fits now.
func (c *credit) admit() {
	for len(c.waiting) > 0 && c.fits(c.waiting[0].cost) {
		w := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.take(w.cost)
		w.in = true
		close(w.ready)
	}
}

// acquire waits until a call of that cost may start.
func (c *caller) acquire(ctx context.Context, cost int64) error {
	l := c.link
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	if len(c.credit.waiting) == 0 && c.credit.fits(cost) {
		c.credit.take(cost)
		l.mu.Unlock()
		return nil
	}
	w := &waiter{cost: cost, ready: make(chan struct{})}
	c.credit.waiting = append(c.credit.waiting, w)
	l.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-l.over:
		return l.why()
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.in {
		c.credit.give(cost)
	} else {
		c.credit.waiting = slices.DeleteFunc(c.credit.waiting, func(o *waiter) bool { return o == w })
		c.credit.admit()
	}
	return ctx.Err()
}
