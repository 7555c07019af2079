package engine

import (
	"errors"
	"sync"
)

// ErrCancelled is why a task was ended that somebody cancelled.
var ErrCancelled = errors.New("it was cancelled")

// ErrPaused is why a task was ended whose run was paused at once. It is begun again when the run goes on.
var ErrPaused = errors.New("the run was paused")

// ErrClosed is why a task is ended when the window closes.
var ErrClosed = errors.New("the window has closed")

// Control steers a run from other goroutines. The zero Control is ready; it belongs to one run.
type Control struct {
	mu     sync.Mutex
	paused bool
	stop   bool // what runs is ended, to be begun again
	all    bool // cancelled
	some   map[string]bool
	wake   chan struct{}
}

// Pause lets nothing new begin. What runs goes on; with atOnce it is ended, and begun again when the run goes on. A copy then goes on from what
// is durable, where the provider's tracking allows it.
func (c *Control) Pause(atOnce bool) { c.change(func() { c.paused, c.stop = true, atOnce }) }

// Resume goes on.
func (c *Control) Resume() { c.change(func() { c.paused, c.stop = false, false }) }

// Cancel ends everything: what runs is ended, in good order, and nothing new is begun.
func (c *Control) Cancel() { c.change(func() { c.all = true }) }

// CancelTask ends one task.
func (c *Control) CancelTask(id string) {
	c.change(func() {
		if c.some == nil {
			c.some = map[string]bool{}
		}
		c.some[id] = true
	})
}

func (c *Control) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// changed is closed at the next change.
func (c *Control) changed() <-chan struct{} {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	return c.wake
}

func (c *Control) isPaused() (paused, stop bool) {
	if c == nil {
		return false, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused, c.stop
}

func (c *Control) cancelled(id string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all || c.some[id]
}
