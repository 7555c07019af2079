package mover

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// admission lets a number of points be written at once. Others wait for their turn, in the order in which they came;
// behind a bounded queue they are sent away.
type admission struct {
	turns    *semaphore.Weighted // first come, first served
	maxQueue int64
	waiting  atomic.Int64
	writing  atomic.Int64

	mu sync.Mutex
	of map[string]int // who wait, by peer

	end     sync.Once
	closing chan struct{} // closed: nobody is let in any more
}

func newAdmission(writers, queue int) *admission {
	return &admission{turns: semaphore.NewWeighted(int64(writers)), maxQueue: int64(queue), closing: make(chan struct{}), of: map[string]int{}}
}

// maxWaitingOf is how many points of one peer wait: each holds its Begin in memory, up to 600 KiB, and a peer that
// filled the queue would keep all others out of it.
const maxWaitingOf = 256

// queue counts a peer in. On nil the caller must unqueue.
func (a *admission) queue(peer string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.waiting.Load() >= a.maxQueue:
		return &wire.Fail{Code: wire.CodeBusy, Text: fmt.Sprintf("%d others wait for their turn to write", a.maxQueue)}
	case a.of[peer] >= maxWaitingOf:
		return &wire.Fail{Code: wire.CodeBusy, Text: fmt.Sprintf("%d points of this peer wait for their turn to be written", maxWaitingOf)}
	}
	a.waiting.Add(1)
	a.of[peer]++
	return nil
}

func (a *admission) unqueue(peer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting.Add(-1)
	if a.of[peer]--; a.of[peer] == 0 {
		delete(a.of, peer)
	}
}

// enter waits for a turn. On nil the caller must leave.
func (a *admission) enter(ctx context.Context, peer string) error {
	select {
	case <-a.closing:
		return errEnding
	default:
	}
	if a.turns.TryAcquire(1) { // never past somebody who waits
		a.writing.Add(1)
		return nil
	}
	if err := a.queue(peer); err != nil {
		return err
	}
	defer a.unqueue(peer)
	wait, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-a.closing:
			stop()
		case <-wait.Done():
		}
	}()
	if err := a.turns.Acquire(wait, 1); err != nil {
		if ctx.Err() == nil {
			return errEnding
		}
		return err
	}
	a.writing.Add(1)
	return nil
}

// errEnding is told to who waits when the mover ends. It comes back to the next one.
var errEnding = &wire.Fail{Code: wire.CodeBusy, Text: "this mover is about to end; come back later"}

// shut sends those away who wait, and all who come.
func (a *admission) shut() { a.end.Do(func() { close(a.closing) }) }

func (a *admission) leave() {
	a.writing.Add(-1)
	a.turns.Release(1)
}

// clock counts the time in which the mover ran: steps of the wall clock do not count, and neither does a standstill of
// the machine, which some systems add to the time that passes, and in which nobody could have come.
type clock struct {
	start time.Time
	still atomic.Int64
}

func (c *clock) now() time.Duration { return time.Since(c.start) - time.Duration(c.still.Load()) }

// beat is now for somebody who looks at it every so often, and takes what is far beyond that off the time.
func (c *clock) beat(last, every time.Duration) time.Duration {
	if gap := c.now() - last; gap > 4*every {
		c.still.Add(int64(gap - every))
	}
	return c.now()
}
