package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// How lanes are opened again.
const (
	dialTime  = 20 * time.Second
	leastTime = 100 * time.Millisecond // that an attempt gets, however little is left
	firstWait = 200 * time.Millisecond
	longWait  = 15 * time.Second
	idleAfter = time.Minute      // an extra lane that carried nothing for so long is closed
	growAgain = 30 * time.Second // after an extra lane could not be opened
)

// keeper opens a session's lanes: the first, new ones for those that are lost, more where the line needs them.
type keeper struct {
	client *Client
	events chan struct{} // a lane was lost, more are wanted
	done   chan struct{}

	most int // as the other side allows; under the link's lock

	mu       sync.Mutex
	want     int
	lastLive time.Time   // when the last lane that was of use was lost
	failed   int         // attempts since a lane that was of use
	notUntil time.Time   // no extra lanes before
	lanes    uint32      // that there ever were
	opened   bool        // the other side has welcomed one
	breakOff func()      // ends the attempt that is under way; nil: none is
	patience *time.Timer // calls expire while there is no lane
}

func newKeeper(c *Client) *keeper {
	k := &keeper{client: c, events: make(chan struct{}, 1), done: make(chan struct{}), most: 1, want: max(1, c.opts.Lanes)}
	c.link.parted = k.parted
	if c.opts.Lanes == 0 {
		c.link.pressure.judge = k.judge
	}
	return k
}

func (k *keeper) look() {
	select {
	case k.events <- struct{}{}:
	default:
	}
}

// first opens the first lane.
func (k *keeper) first(ctx context.Context) error {
	defer func() {
		if !k.opened {
			close(k.done)
		}
	}()
	until := time.Now().Add(k.client.opts.Patience)
	for {
		err := k.open(ctx, dialTime)
		wait := k.backOff()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || hopeless(err) || time.Now().Add(wait).After(until):
			return err
		}
		if !sleep(ctx, wait) {
			return err
		}
	}
}

// hopeless reports whether dialling again is useless.
func hopeless(err error) bool {
	return errors.Is(err, ErrFinal) || errors.Is(err, trust.ErrRefused) || errors.Is(err, trust.ErrWrongServer)
}

// open opens a lane within a time, and lets it run.
func (k *keeper) open(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	number := k.attempt(cancel)
	defer k.attempted()
	c := k.client
	a, err := c.dial(ctx, number)
	if err != nil {
		return err
	}
	if k.opened {
		c.link.counters.reconnects.Add(1)
	} else {
		k.lastLive = time.Now()
	}
	k.opened = true
	if err := c.link.add(a); err != nil {
		abort(a.conn)
		return err
	}
	go k.carry(a)
	a.ask()
	return nil
}

// attempt counts an attempt and gives the lane's number: 0 until the other side has welcomed one, because a Hello with any
// other asks for a session that is known.
func (k *keeper) attempt(breakOff func()) uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed++
	k.breakOff = breakOff
	if k.opened {
		k.lanes++
	}
	return k.lanes
}

func (k *keeper) attempted() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.breakOff = nil
}

// carry runs a lane to its end.
func (k *keeper) carry(a *lane) {
	defer k.client.link.running.Done()
	err := a.run(context.Background())
	k.client.link.log.Debug("a lane has ended", "lane", a.number, "err", err)
}

// parted notes that a lane has gone.
func (k *keeper) parted(a *lane) {
	alone := k.client.link.live() == 0 && k.client.link.why() == nil
	k.mu.Lock()
	if a.proved.Load() {
		k.failed, k.lastLive = 0, time.Now()
	}
	if alone {
		k.noPatience()
		k.patience = time.AfterFunc(max(leastTime, k.client.opts.GiveUp-time.Since(k.lastLive)), k.expire)
	}
	k.mu.Unlock()
	k.look()
}

// noPatience stops the timer. It wants the lock.
func (k *keeper) noPatience() {
	if k.patience != nil {
		k.patience.Stop()
	}
}

// expire ends an attempt that began while there were lanes, and had more time than the session has now.
func (k *keeper) expire() {
	live := k.client.link.live()
	k.mu.Lock()
	defer k.mu.Unlock()
	if live == 0 && k.breakOff != nil {
		k.breakOff()
	}
}

// backOff is how long to wait before the next attempt: none after a lane that was of use, then 200 ms, doubled up to 15 s,
// less up to a half by chance, so that a thousand clients do not come back as one.
func (k *keeper) backOff() time.Duration {
	proven := k.client.link.proven()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed == 0 || proven {
		return 0
	}
	wait := longWait
	if k.failed < 8 {
		wait = min(longWait, firstWait<<(k.failed-1))
	}
	return wait/2 + rand.N(wait/2)
}

// run keeps the lanes until the session is over.
func (k *keeper) run() {
	defer close(k.done)
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.noPatience()
	}()
	l := k.client.link
	watch := newSleepWatch(k.client.opts.wall)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		before := time.Now()
		k.fill(l.ctx)
		if time.Since(before) > time.Second {
			watch.slept() // it was this that took so long
		}
		select {
		case <-k.events:
		case <-tick.C:
			if watch.slept() {
				l.failAll(errSlept)
			}
			k.dropIdle()
		case <-l.over:
			return
		}
	}
}

// fill opens lanes until there are as many as are wanted.
func (k *keeper) fill(ctx context.Context) {
	l := k.client.link
	for ctx.Err() == nil && k.lacks(l.live()) {
		if !sleep(ctx, min(k.backOff(), max(0, k.left()))) {
			return
		}
		have, within := l.live(), dialTime
		if have == 0 { // an attempt takes no longer than the session has
			within = min(dialTime, max(leastTime, k.left()))
		}
		err := k.open(ctx, within)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLost) || hopeless(err):
			l.end(err, nil)
			return
		case have > 0:
			k.enough(have)
		case k.left() <= 0:
			l.end(fmt.Errorf("%w (%v): %w", ErrGaveUp, k.client.opts.GiveUp, err), nil)
			return
		}
		if err != nil {
			k.client.link.log.Debug("a lane could not be opened", "err", err)
		}
	}
}

// lacks reports whether a session that has some lanes should open another now.
func (k *keeper) lacks(have int) bool {
	k.client.link.mu.Lock()
	most := k.most
	k.client.link.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	return have == 0 || have < min(k.want, most) && time.Now().After(k.notUntil)
}

// left is how long the session goes on without a line.
func (k *keeper) left() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.client.opts.GiveUp - time.Since(k.lastLive)
}

// enough stays with the lanes that there are for a while.
func (k *keeper) enough(have int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notUntil = time.Now().Add(growAgain)
	k.failed = 0
	if k.client.opts.Lanes == 0 {
		k.want = have
	}
}

// judge asks for more lanes where the line needs them.
func (k *keeper) judge(e epoch) {
	l := k.client.link
	l.mu.Lock()
	lanes, rtt, full, most := len(l.lanes), l.rtt, len(l.calls.queue) > 0, k.most
	l.mu.Unlock()
	want := min(e.worth(lanes, rtt, full), most)
	k.mu.Lock()
	defer k.mu.Unlock()
	if want > k.want {
		k.want = want
		k.look()
	}
}

// dropIdle closes an extra lane that carries nothing.
func (k *keeper) dropIdle() {
	l := k.client.link
	if k.client.opts.Lanes > 0 {
		return
	}
	var idle *lane
	l.mu.Lock()
	for _, a := range l.lanes[min(1, len(l.lanes)):] {
		if time.Since(a.used) >= idleAfter && len(a.calls) == 0 && len(a.replies) == 0 {
			idle = a
		}
	}
	have := len(l.lanes)
	l.mu.Unlock()
	if idle == nil {
		return
	}
	k.mu.Lock()
	k.want = max(1, have-1)
	k.mu.Unlock()
	idle.fail(errIdle)
}

// sleep waits, and reports whether it could.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
