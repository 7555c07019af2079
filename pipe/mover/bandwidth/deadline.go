package bandwidth

import (
	"sync"
	"time"
)

// deadline is a moment that can be waited for and moved, also while somebody waits.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	turn  uint64        // of the timer: one that was replaced does nothing
	over  chan struct{} // closed when the moment has passed
}

func newDeadline() *deadline { return &deadline{over: make(chan struct{})} }

// passed is closed at the deadline, also where that is moved meanwhile.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.turn++
	select {
	case <-d.over:
		d.over = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.over)
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(wait, func() { d.ring(turn) })
}

func (d *deadline) ring(turn uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turn == turn {
		close(d.over)
	}
}
