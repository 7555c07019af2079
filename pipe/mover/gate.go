package mover

import (
	"context"
	"sync"
)

// gate counts the calls that are under way on something that ends, so that what must be called alone is.
type gate struct {
	mu    sync.Mutex
	ops   int
	why   error // not nil: shut
	ended bool  // for good
	idle  chan struct{}
}

// enter begins a call; the caller leaves. Behind a shut gate it is the reason.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return g.why
	}
	g.ops++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ops--
	if g.ops == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// enterAlone shuts the gate for others, with the reason that they get, and waits until the caller is the only one in.
// The caller leaves, and opens the gate again or ends it.
func (g *gate) enterAlone(ctx context.Context, why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return g.why
	}
	g.why = why
	if err := g.empty(ctx); err != nil {
		if !g.ended {
			g.why = nil
		}
		return err
	}
	if g.ended {
		return g.why
	}
	g.ops++
	return nil
}

// empty waits until nobody is in. The lock is held before and after, not meanwhile.
func (g *gate) empty(ctx context.Context) error {
	for g.ops > 0 {
		if g.idle == nil {
			g.idle = make(chan struct{})
		}
		idle := g.idle
		g.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// reopen takes back what enterAlone shut, unless the gate has ended since.
func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.why = nil
	}
}

// end shuts the gate for good. first: nobody had done so.
func (g *gate) end(why error) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return false
	}
	g.ended, g.why = true, why
	return true
}

// inside is how many calls are under way.
func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ops
}

// wait waits until nobody is in.
func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.empty(ctx)
}
