package qmp

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxEvents bounds what a watcher keeps for its reader.
const maxEvents = 1024

// Watcher gathers events.
type Watcher struct {
	c     *Conn
	names []string
	ready chan struct{}

	mu     sync.Mutex
	events []Event
	lost   int
}

// Watch gathers events with the given names from now on; none given: all of them. The caller closes the watcher.
func (c *Conn) Watch(names ...string) *Watcher {
	w := &Watcher{c: c, names: names, ready: make(chan struct{}, 1)}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	return w
}

// take is called by the connection for every event.
func (w *Watcher) take(e Event) {
	if len(w.names) > 0 && !slices.Contains(w.names, e.Name) {
		return
	}
	w.mu.Lock()
	if len(w.events) == maxEvents {
		w.events = w.events[1:]
		w.lost++
	}
	w.events = append(w.events, e)
	w.mu.Unlock()
	w.wake()
}

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Ready receives when there may be events to take, or the connection has ended.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Take returns the events that came since the last call, the oldest first, and how many were lost because nobody took
// them in time.
func (w *Watcher) Take() (events []Event, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, lost = w.events, w.lost
	w.events, w.lost = nil, 0
	return events, lost
}

// Close stops gathering.
func (w *Watcher) Close() {
	w.c.mu.Lock()
	delete(w.c.watchers, w)
	w.c.mu.Unlock()
}

// pollEvery is how often Until asks without having been told by an event.
const pollEvery = 250 * time.Millisecond

// Until asks check whether it holds, again after each event with one of the names, and from time to time without one,
// until it does. Its deadline is the context's, or Timeout.
func (c *Conn) Until(ctx context.Context, check func(ctx context.Context) (bool, error), names ...string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	w := c.Watch(names...)
	defer w.Close()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := check(ctx)
		if ok || err != nil {
			return err
		}
		select {
		case <-w.Ready():
			w.Take()
		case <-tick.C:
		case <-c.ended:
			return c.reason()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
