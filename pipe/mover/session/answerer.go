package session

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// closeGrace is how long calls get to return when their session ends.
const closeGrace = 10 * time.Second

// answerer is the half of a session that carries calls out, each once. The link's lock holds all of it but the handler.
//
// A call is in the table from its arrival until its answer is not needed any more. One that is not in the table is new,
// unless the caller has said that it needs no answer of it: then it comes late, from a lane that was given up.
type answerer struct {
	link    *link
	handler Handler
	table   map[uint64]*entry
	below   uint64              // the caller needs no answer of any call below, but those in open
	open    map[uint64]struct{} // at most wire.MaxCalls
	credit  wire.Credit         // as granted
	most    uint64              // calls that ever were granted at once
	widest  int64               // bytes that ever were granted
	running int
	under   [sorts]load   // calls under way, with their content, and answers that are not sent
	seed    maphash.Seed  // of the requests' hashes
	kept    int64         // of answers in the table
	room    chan struct{} // closed when there is more; nil: nobody waits
	calls   sync.WaitGroup
	closed  chan struct{}
}

// entry is one call in the table. Every lane that asked for it gets the answer: the one that asked last may be one that the
// caller has given up, where what it asked came late.
type entry struct {
	number uint64
	lanes  []*lane      // that asked and have not been answered since
	answer wire.Message // nil: it is under way
	size   int64        // of the answer, as it is kept
	sort   sort
	takes  int64  // of the window, until the answer is kept or sent
	hash   uint64 // of the request
	queued int    // answers that are not sent
	cancel context.CancelFunc
}

// reply is an answer that waits on a lane.
type reply struct {
	entry *entry
	out   *outgoing
}

// keepBeyond is what kept answers may take besides two windows.
const keepBeyond = 16 << 20

func newAnswerer(l *link, h Handler) *answerer {
	return &answerer{link: l, handler: h, table: map[uint64]*entry{}, below: 1, open: map[uint64]struct{}{},
		closed: make(chan struct{}), seed: maphash.MakeSeed()}
}

// grant says what the caller may have under way. It wants the lock.
func (a *answerer) grant(c wire.Credit) {
	a.credit = c
	a.most = max(a.most, uint64(c.MaxCalls))
	a.widest = max(a.widest, int64(c.Window))
	a.makeRoom()
}

// request takes a call from a lane, and returns once it has begun: where the caller has more under way than it was
// granted, its lane waits. An error means that the other side breaks the protocol.
func (a *answerer) request(from *lane, number uint64, m wire.Message, mem *memory) error {
	l := a.link
	takes, sort, hash := cost(m), sortOf(m), a.hash(m)
	l.mu.Lock()
	for {
		known, err := a.known(from, number, hash)
		if known || err != nil {
			l.mu.Unlock()
			mem.free()
			return err
		}
		if a.fits(sort, takes) {
			break
		}
		if a.room == nil {
			a.room = make(chan struct{})
		}
		room := a.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-from.stop:
		case <-l.over:
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	ctx, cancel := context.WithCancel(l.ctx)
	e := &entry{number: number, lanes: []*lane{from}, sort: sort, takes: takes, hash: hash, cancel: cancel}
	a.table[number] = e
	a.running++
	a.under[sort].calls++
	a.under[sort].bytes += takes
	a.calls.Add(1)
	from.used = time.Now()
	l.counters.calls.Add(1)
	go a.carryOut(ctx, e, m, mem)
	return nil
}

// hash is a request's hash under a key that nobody knows.
func (a *answerer) hash(m wire.Message) uint64 {
	head, body, _ := wire.Split(make([]byte, 0, 128), wire.Frame{Message: m}) // what was read can be written
	var h maphash.Hash
	h.SetSeed(a.seed)
	_, _ = h.Write(head)
	_, _ = h.Write(body)
	return h.Sum64()
}

// fits reports whether a call may begin. One alone of each sort always may.
func (a *answerer) fits(s sort, takes int64) bool {
	return a.running < 2*max(1, int(a.most)) && a.under[s].fits(takes, int64(a.credit.Window))
}

// known reports whether there is nothing to begin: the call is in the table, or came late, or there is nobody any more.
func (a *answerer) known(from *lane, number uint64, hash uint64) (bool, error) {
	e, late := a.table[number], a.settled(number)
	switch {
	case a.link.err != nil || from.lost:
		return true, nil
	case e != nil && e.hash != hash:
		// A machine that was cloned, or set back, with its memory: the answer would be that of the other's call.
		return true, fmt.Errorf("%w: call %d comes again as another", errProtocol, number)
	case e != nil:
		a.link.counters.repeated.Add(1)
		e.ask(from)
		a.reply(e)
		return true, nil
	case late:
		a.link.counters.repeated.Add(1)
		return true, nil
	case number >= a.below && number-a.below >= 2*max(1, a.most):
		return true, fmt.Errorf("%w: call %d, where %d is the lowest", errProtocol, number, a.below)
	case uint64(len(a.table)) >= 4*max(1, a.most):
		return true, fmt.Errorf("%w: %d calls, and no answer was acknowledged", errProtocol, len(a.table))
	case a.kept > 2*a.widest+keepBeyond:
		return true, fmt.Errorf("%w: answers of %d bytes were not acknowledged", errProtocol, a.kept)
	}
	return false, nil
}

// settled reports whether the caller needs no answer of a call.
func (a *answerer) settled(number uint64) bool {
	_, open := a.open[number]
	return number < a.below && !open
}

// ask has the answer sent on one more lane.
func (e *entry) ask(from *lane) {
	e.lanes = slices.DeleteFunc(e.lanes, func(a *lane) bool { return a.lost })
	if !slices.Contains(e.lanes, from) {
		e.lanes = append(e.lanes, from)
	}
}

// carryOut has a call handled, and sends its answer on the lanes that asked.
func (a *answerer) carryOut(ctx context.Context, e *entry, m wire.Message, mem *memory) {
	defer a.calls.Done()
	answer := answerOf(a.handler.Handle(ctx, e.number, m))
	e.cancel()
	mem.free()
	l := a.link
	l.mu.Lock()
	defer l.mu.Unlock()
	a.running--
	a.under[e.sort].calls--
	if a.table[e.number] != e { // the caller has given it up
		a.release(e)
		return
	}
	e.answer = answer
	if !repeatable(answer) {
		e.size = answerSize(answer)
		a.kept += e.size
		a.release(e)
	}
	a.reply(e)
	a.forgetSent(e)
}

// answerSize is about what an answer takes while it is kept.
func answerSize(m wire.Message) int64 {
	n := int64(64 + len(content(m)))
	if names, ok := m.(*wire.StoreNames); ok {
		for _, o := range names.Names {
			n += 32 + int64(len(o.Name))
		}
	}
	return n
}

// release returns what a call took of the window. It wants the lock.
func (a *answerer) release(e *entry) {
	a.under[e.sort].bytes -= e.takes
	e.takes = 0
	a.makeRoom()
}

func (a *answerer) makeRoom() {
	if a.room != nil {
		close(a.room)
		a.room = nil
	}
}

// reply puts an answer on the lanes that asked. One that breaks its bounds is a failure to be told.
func (a *answerer) reply(e *entry) {
	if e.answer == nil {
		return
	}
	for _, to := range e.lanes {
		if to.lost || to.answering(e) {
			continue
		}
		out, err := frame(e.number, e.answer)
		if err != nil {
			e.answer = &wire.Fail{Code: wire.CodeFailed, Text: err.Error()}
			out, _ = frame(e.number, e.answer)
		}
		e.queued++
		out.sent = func() { a.sent(e) }
		to.replies = append(to.replies, &reply{e, out})
		to.notify()
	}
	e.lanes = e.lanes[:0]
}

// answering reports whether an answer waits on this lane already.
func (a *lane) answering(e *entry) bool {
	return slices.ContainsFunc(a.replies, func(r *reply) bool { return r.entry == e })
}

// sent notes that an answer has gone out, or that its lane has ended.
func (a *answerer) sent(e *entry) {
	l := a.link
	l.mu.Lock()
	defer l.mu.Unlock()
	e.queued--
	a.forgetSent(e)
}

// forgetSent forgets an answer that is not kept, when it lies nowhere any more.
func (a *answerer) forgetSent(e *entry) {
	if e.queued > 0 || !repeatable(e.answer) {
		return
	}
	a.release(e)
	if a.table[e.number] == e {
		delete(a.table, e.number)
	}
}

// nextReply is the next answer of this lane.
func (a *lane) nextReply() *outgoing {
	if len(a.replies) == 0 {
		return nil
	}
	r := a.replies[0]
	a.replies = a.replies[1:]
	return r.out
}

// acknowledged forgets the answers that the caller does not need, and ends the calls that it gave up.
func (a *answerer) acknowledged(m *wire.Ack) {
	l := a.link
	l.mu.Lock()
	defer l.mu.Unlock()
	waits := make(map[uint64]struct{}, len(m.Open))
	for _, n := range m.Open {
		waits[n] = struct{}{}
		if n >= a.below {
			a.open[n] = struct{}{}
		}
	}
	for n := range a.open {
		if _, ok := waits[n]; !ok && n < m.Below {
			delete(a.open, n)
		}
	}
	a.below = max(a.below, m.Below)
	for n, e := range a.table {
		if a.settled(n) {
			delete(a.table, n)
			a.kept -= e.size
			e.cancel()
		}
	}
}

// close ends the handler: when the calls have returned, or did not in time.
func (a *answerer) close() {
	returned := make(chan struct{})
	go func() {
		a.calls.Wait()
		close(returned)
	}()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-returned:
	case <-grace.C:
		a.link.log.Warn("calls do not end with their session", "after", closeGrace)
	}
	if err := a.handler.Close(); err != nil {
		a.link.log.Warn("closing a session's handler", "err", err)
	}
	close(a.closed)
}
