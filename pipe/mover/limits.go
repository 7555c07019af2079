package mover

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

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

	end     sync.Once
	closing chan struct{} // closed: nobody is let in any more
}

func newAdmission(writers, queue int) *admission {
	return &admission{turns: semaphore.NewWeighted(int64(writers)), maxQueue: int64(queue), closing: make(chan struct{})}
}

// enter waits for a turn. On nil the caller must leave.
func (a *admission) enter(ctx context.Context) error {
	select {
	case <-a.closing:
		return errEnding
	default:
	}
	if a.turns.TryAcquire(1) { // never past somebody who waits
		a.writing.Add(1)
		return nil
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > a.maxQueue {
		return &wire.Fail{Code: wire.CodeBusy, Text: fmt.Sprintf("%d others wait for their turn to write", a.maxQueue)}
	}
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
