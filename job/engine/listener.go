package engine

import (
	"sync"
	"time"

	"github.com/hikae/hikae/job"
)

const (
	// maxSaid is how much of what sessions say waits for a listener. What the engine itself says always waits: there are a few of it for each
	// attempt.
	maxSaid = 4096
	// maxMoving is the same of progress, which is old when it is heard late.
	maxMoving = 16
	// listenWithin is how long a listener may take for one event at the end of a run, before the run ends without it.
	listenWithin = time.Minute
)

// listener tells events to whoever listens, one at a time and in order, beside those who say them: a session whose snapshot grows waits for
// nobody's log. A listener that is behind misses some of what sessions say, and is told how much.
type listener struct {
	hear func(Event)
	more chan struct{} // something waits, or it is over
	end  chan struct{} // closed when nothing is told any more

	mu      sync.Mutex
	waiting []Event
	said    int // of waiting: what sessions say
	missed  int
	heard   int // how often the listener came back
	closed  bool
	left    bool // it did not come back in time
}

func newListener(hear func(Event)) *listener {
	if hear == nil {
		return nil
	}
	l := &listener{hear: hear, more: make(chan struct{}, 1), end: make(chan struct{})}
	go l.tell()
	return l
}

// say never waits.
func (l *listener) say(e Event) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.What == Told {
		_, moving := e.Session.(job.DiskProgress)
		if moving && l.said >= maxMoving || l.said >= maxSaid {
			if !moving {
				l.missed++
			}
			return
		}
		l.said++
		e.Missed, l.missed = l.missed, 0
	}
	l.waiting = append(l.waiting, e)
	l.wake()
}

func (l *listener) wake() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *listener) tell() {
	defer close(l.end)
	for range l.more {
		for {
			e, some, over := l.next()
			if over {
				return
			}
			if !some {
				break
			}
			l.hear(e)
			l.back()
		}
	}
}

// next takes what has waited longest.
func (l *listener) next() (e Event, some, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left || l.closed && len(l.waiting) == 0 {
		return Event{}, false, true
	}
	if len(l.waiting) == 0 {
		return Event{}, false, false
	}
	e = l.waiting[0]
	if l.waiting = l.waiting[1:]; len(l.waiting) == 0 {
		l.waiting = nil // lets go of the array
	}
	if e.What == Told {
		l.said--
	}
	return e, true, false
}

func (l *listener) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard++
}

// close waits until all is told, for as long as the listener comes back for more.
func (l *listener) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	l.wake()
	l.mu.Unlock()
	for heard := -1; ; {
		timer := time.NewTimer(listenWithin)
		select {
		case <-l.end:
			timer.Stop()
			return
		case <-timer.C:
		}
		l.mu.Lock()
		l.left = l.heard == heard
		left := l.left
		heard = l.heard
		l.mu.Unlock()
		if left {
			return
		}
	}
}
