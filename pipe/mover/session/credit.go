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
	under    [sorts]load
	waiting  [sorts][]*waiter
}

// load is the calls of one sort that are under way.
type load struct {
	calls int
	bytes int64
}

// fits reports whether another call of that sort has room. One alone always has, whatever it costs.
func (l *load) fits(cost, window int64) bool { return l.calls == 0 || l.bytes+cost <= window }

type waiter struct {
	cost  int64
	ready chan struct{}
	in    bool
}

// fits reports whether a call may start.
func (c *credit) fits(s sort, cost int64) bool {
	return c.calls < c.maxCalls && c.under[s].fits(cost, c.window)
}

func (c *credit) take(s sort, cost int64) {
	c.calls++
	c.under[s].calls++
	c.under[s].bytes += cost
}

// give returns what a call took.
func (c *credit) give(s sort, cost int64) {
	c.calls--
	c.under[s].calls--
	c.under[s].bytes -= cost
	c.admit()
}

// admit lets in who fits now.
func (c *credit) admit() {
	for s := range sorts {
		for len(c.waiting[s]) > 0 && c.fits(s, c.waiting[s][0].cost) {
			w := c.waiting[s][0]
			c.waiting[s] = c.waiting[s][1:]
			c.take(s, w.cost)
			w.in = true
			close(w.ready)
		}
	}
}

// acquire waits until a call of that sort and cost may start.
func (c *caller) acquire(ctx context.Context, s sort, cost int64) error {
	l := c.link
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	if len(c.credit.waiting[s]) == 0 && c.credit.fits(s, cost) {
		c.credit.take(s, cost)
		l.mu.Unlock()
		return nil
	}
	w := &waiter{cost: cost, ready: make(chan struct{})}
	c.credit.waiting[s] = append(c.credit.waiting[s], w)
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
		c.credit.give(s, cost)
	} else {
		c.credit.waiting[s] = slices.DeleteFunc(c.credit.waiting[s], func(o *waiter) bool { return o == w })
		c.credit.admit()
	}
	return ctx.Err()
}
