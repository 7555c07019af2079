package session

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// caller is the half of a session that makes calls. The link's lock holds all of it.
//
// A call is in open from the moment it has a number until its answer came or nobody wants it any more, and besides
// either in the queue or on one lane. Its content stays where its maker has it.
type caller struct {
	link   *link
	credit credit
	next   uint64 // number of the next call
	open   map[uint64]*call
	queue  []*call // that no lane has taken, by number
	settle int     // answers since the last Ack
	paused bool    // the other side drains
	limits wire.Credit
}

// call is one call that waits for its answer.
type call struct {
	number     uint64
	sort       sort
	cost       int64
	expects    int64 // bytes of its answer
	head, body []byte
	out        *outgoing // on its lane
	lane       *lane     // nil: in the queue
	before     bool      // a part of it was sent before, on a lane that is gone
	ahead      int64     // bytes of answers that its lane waited for when it took this call, with its own
	taken      time.Time // when it did
	done       chan struct{}
	answer     wire.Message
	err        error
}

func newCaller(l *link) *caller {
	return &caller{link: l, next: 1, open: map[uint64]*call{}}
}

// make makes a call and waits for its answer. The request's content is not read any more when it returns.
func (c *caller) make(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, ctx.Err()
	}
	k := &call{sort: sortOf(req), cost: cost(req), expects: expected(req), done: make(chan struct{})}
	if req.Kind() == wire.KindCollect {
		k.expects = 0 // it lasts as long as a backup: nobody is to wait behind its answer
	}
	if err := c.acquire(ctx, k.sort, k.cost); err != nil {
		return 0, nil, err
	}
	if err := c.enter(k, req); err != nil {
		return 0, nil, err
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		if c.giveUp(k) {
			return k.number, nil, ctx.Err()
		}
	}
	return k.number, k.answer, k.err
}

// enter gives a call its number and puts it into the queue.
func (c *caller) enter(k *call, req wire.Message) (err error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if err = l.err; err == nil {
		k.head, k.body, err = wire.Split(make([]byte, 0, 128), wire.Frame{Call: c.next, Message: req})
	}
	if err != nil {
		c.credit.give(k.sort, k.cost)
		return err
	}
	k.number = c.next
	c.next++
	c.open[k.number] = k
	c.queue = append(c.queue, k)
	l.counters.calls.Add(1)
	l.wakeOne()
	return nil
}

// leave takes a call out. Nothing reads its content behind it.
func (c *caller) leave(k *call) {
	delete(c.open, k.number)
	if k.lane == nil {
		c.queue = slices.DeleteFunc(c.queue, func(o *call) bool { return o == k })
	} else {
		delete(k.lane.calls, k.number)
		k.lane.expects -= k.expects
		k.out.detach()
	}
	c.credit.give(k.sort, k.cost)
}

// giveUp leaves a call without its answer, and has the other side told. It reports false where the answer came before.
func (c *caller) giveUp(k *call) bool {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.open[k.number] != k {
		return false
	}
	c.leave(k)
	if k.lane != nil {
		k.lane.ackDue = true
		k.lane.notify()
	}
	return true
}

// give hands the lane its next frame: the first call of the queue, or the acknowledgement that has to go before it. The
// other side keeps no more answers than it must, and refuses numbers that are too far ahead of what it was told.
func (c *caller) give(a *lane) *outgoing {
	if c.paused || len(c.queue) == 0 {
		return nil
	}
	at := c.choose(a)
	if at < 0 {
		return nil
	}
	k := c.queue[at]
	if k.number >= a.acked+uint64(max(1, c.credit.maxCalls/2)) {
		return mustFrame(c.ack(a))
	}
	c.queue = slices.Delete(c.queue, at, at+1)
	k.lane = a
	a.expects += k.expects
	k.ahead, k.taken = a.expects, time.Now()
	k.out = outgoingOf(k.head, k.body)
	a.calls[k.number] = k
	if k.before {
		c.link.counters.retries.Add(1)
		c.link.counters.resent.Add(int64(len(k.head) + len(k.body)))
	}
	return k.out
}

// choose is the place in the queue of the call that a lane takes, -1: none. It is the first, but a call that reads is left
// where it is while the lane has enough to wait for, and to a lane that waits for less.
func (c *caller) choose(a *lane) int {
	if c.queue[0].expects == 0 {
		return 0
	}
	if !c.passOn(a, c.queue[0]) && c.roomFor(a, c.queue[0]) {
		return 0
	}
	return slices.IndexFunc(c.queue, func(k *call) bool { return k.expects == 0 })
}

// What a lane waits for on a long line: as much as comes in a tenth of a second and two round trips. Requests are short,
// and a lane that takes all that there are holds them while other lanes are opened, or are done with theirs.
const (
	leastRoom = 512 << 10
	mostRoom  = 64 << 20
	roomTime  = 100 * time.Millisecond
)

func (c *caller) roomFor(a *lane, k *call) bool {
	return c.link.rtt < farLine || a.expects == 0 || a.expects+k.expects <= a.room
}

// resize makes a lane's room what fits its speed, when an answer with content has come.
func (c *caller) resize(a *lane, k *call) {
	if 2*k.ahead < a.room || c.link.rtt < farLine {
		return // it tells nothing of a room that is full
	}
	switch took, good := time.Since(k.taken), roomTime+2*c.link.rtt; {
	case took < good:
		a.room = min(2*a.room, mostRoom)
	case took > 4*good:
		a.room = max(a.room/2, leastRoom)
	}
}

// passOn leaves a call that reads to a lane that has nothing to do and waits for less, or has room where this one has
// none: requests are short, and the first lane would take them all.
func (c *caller) passOn(from *lane, k *call) bool {
	full := !c.roomFor(from, k)
	for _, a := range c.link.lanes {
		if a.idle && c.roomFor(a, k) && (full || a.expects < from.expects) {
			a.idle = false
			a.notify()
			return true
		}
	}
	return false
}

// ack says which answers are needed yet.
func (c *caller) ack(a *lane) *wire.Ack {
	a.ackDue, a.acked, c.settle = false, c.next, 0
	return &wire.Ack{Below: c.next, Open: slices.Sorted(maps.Keys(c.open))}
}

// owesAck reports whether the other side keeps answers for nothing.
func (c *caller) owesAck(a *lane) bool { return c.settle > 0 || a.acked < c.next && len(c.open) == 0 }

// takeBack puts the calls of a lane that is gone at the front of the queue.
func (c *caller) takeBack(a *lane) {
	back := slices.SortedFunc(maps.Values(a.calls), func(x, y *call) int { return cmp.Compare(x.number, y.number) })
	for _, k := range back {
		k.before = k.out.drop() || k.before
		k.lane, k.out = nil, nil
	}
	clear(a.calls)
	a.expects = 0
	c.queue = append(back, c.queue...)
	slices.SortFunc(c.queue, func(x, y *call) int { return cmp.Compare(x.number, y.number) })
}

// answered takes an answer. One that nobody waits for comes late, from a lane that was given up or for a call that was.
func (c *caller) answered(a *lane, number uint64, m wire.Message) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	k := c.open[number]
	if k == nil {
		return
	}
	on := k.lane
	c.leave(k)
	c.settle++
	if k.expects > 0 && on != nil {
		c.resize(on, k)
		if len(c.queue) > 0 { // it may have room again
			on.notify()
		}
	}
	if large(m) {
		a.ackDue = true
		a.notify()
	}
	if fail, ok := m.(*wire.Fail); ok {
		k.err = fail
	} else {
		k.answer = m
	}
	a.used = time.Now()
	close(k.done)
}

// told takes what the other side says outside of calls.
func (c *caller) told(m wire.Message) {
	l := c.link
	l.mu.Lock()
	switch m := m.(type) {
	case *wire.Credit:
		c.limit(*m)
	case *wire.Drain:
		c.paused = true
	}
	hear := l.heard
	l.mu.Unlock()
	if hear != nil {
		hear(m)
	}
}

// limit takes other limits. It wants the lock.
func (c *caller) limit(to wire.Credit) {
	c.limits = to
	c.credit.maxCalls = int(min(to.MaxCalls, wire.MaxCalls))
	c.credit.window = int64(min(to.Window, 1<<40))
	c.credit.admit()
}

// failAll ends every call with err. It wants the lock.
func (c *caller) failAll(err error) {
	for _, k := range c.open {
		c.leave(k)
		k.err = err
		close(k.done)
	}
	c.queue = nil
}
