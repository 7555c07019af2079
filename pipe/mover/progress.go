package mover

import (
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
)

// frontier is the lowest number of a call that a session has not brought yet. Calls come by several connections, so
// that a later one may overtake an earlier one.
//
// A call that its maker gave up before it was sent never comes. After a while nobody waits for it any more; what is
// durable must not wait for ever. Should it come all the same, it is refused.
type frontier struct {
	mu    sync.Mutex
	next  uint64    // 0 stands for 1
	ahead []span    // that came, beyond next: ascending, apart
	since time.Time // when next was first waited for
	last  time.Time // when a call came last
}

// span is calls from one number to before another.
type span struct{ from, to uint64 }

// overdue is how long a call may be behind later ones: far longer than a connection that is dead goes unnoticed.
const overdue = 5 * time.Minute

// silence is after how long without any call the time that a call is behind is counted anew: the line was cut, and what
// went by it comes again.
const silence = time.Minute

// maxSpans bounds how many gaps are waited for.
const maxSpans = 4096

// saw counts a call that has come. It reports false for one that nobody waits for any more.
func (f *frontier) saw(call uint64) (expected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = max(f.next, 1)
	now := time.Now()
	if now.Sub(f.last) > silence {
		f.since = now
	}
	f.last = now
	if call < f.next {
		return false
	}
	if call == f.next {
		f.next++
		f.join()
		return true
	}
	if len(f.ahead) == 0 {
		f.since = time.Now()
	}
	f.enter(call)
	if len(f.ahead) > maxSpans {
		f.skip()
	}
	return true
}

// enter puts a number among those that are ahead.
func (f *frontier) enter(call uint64) {
	i := sort.Search(len(f.ahead), func(i int) bool { return f.ahead[i].to >= call })
	switch {
	case i == len(f.ahead) || f.ahead[i].from > call+1:
		f.ahead = slices.Insert(f.ahead, i, span{call, call + 1})
	case f.ahead[i].from == call+1:
		f.ahead[i].from = call
	case f.ahead[i].to == call:
		f.ahead[i].to = call + 1
		if i+1 < len(f.ahead) && f.ahead[i+1].from == call+1 {
			f.ahead[i].to = f.ahead[i+1].to
			f.ahead = slices.Delete(f.ahead, i+1, i+2)
		}
	} // else it has come before
}

// join goes on behind what came earlier.
func (f *frontier) join() {
	if len(f.ahead) > 0 && f.ahead[0].from == f.next {
		f.next = f.ahead[0].to
		f.ahead = slices.Delete(f.ahead, 0, 1)
	}
	f.since = time.Now()
}

// skip gives up the calls before the first that is ahead.
func (f *frontier) skip() {
	f.next = f.ahead[0].from
	f.join()
}

func (f *frontier) at() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ahead) > 0 && f.last.Sub(f.since) > overdue { // time in which nothing comes does not count
		f.skip()
	}
	return max(f.next, 1)
}

// progress knows which calls brought what is not durable yet, for one writer whose backend can tell.
type progress struct {
	of pipe.Durable

	mu      sync.Mutex
	working map[uint64]struct{} // under way
	placed  []placed            // by stamp, ascending; where hushed, one for all that was not settled
	held    map[*disk]uint64    // lowest call that left a block of a disk in pieces, until the disk is sealed
	told    uint64

	// hushed: only a settling counts. What is durable at once was there before, brought by whomever, and that is not for
	// an append peer to know.
	hushed  bool
	settled uint64    // hushed: all calls below were settled
	reveal  time.Time // hushed: before that it is not told

	fresh    int64     // bytes that were brought by calls under way
	last     time.Time // when something came last
	settling bool
	tried    time.Time // when it was last begun to settle
}

// placed are the calls that ended under one stamp: of those only the lowest number counts, so that a disk of which
// nothing is new takes no memory here.
type placed struct {
	stamp, lowest uint64
	bytes         int64 // that they brought
}

func newProgress(of pipe.Durable, hushed bool) *progress {
	return &progress{of: of, working: map[uint64]struct{}{}, held: map[*disk]uint64{}, told: 1, hushed: hushed, settled: 1, last: time.Now()}
}

func (p *progress) begin(call uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.working[call] = struct{}{}
	p.last = time.Now()
}

// bring counts bytes of content.
func (p *progress) bring(n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh += int64(n)
}

// end says that a call is over. What it brought is as durable as everything that was put until now.
func (p *progress) end(call uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.working, call)
	p.place(call)
}

func (p *progress) place(call uint64) {
	stamp := uint64(0)
	if !p.hushed {
		stamp = p.of.Stamp() // taken under the lock, so that they ascend
	}
	brought := p.fresh
	p.fresh, p.last = 0, time.Now()
	if n := len(p.placed); n > 0 && p.placed[n-1].stamp >= stamp {
		p.placed[n-1].lowest = min(p.placed[n-1].lowest, call)
		p.placed[n-1].bytes += brought
		return
	}
	p.placed = append(p.placed, placed{stamp, call, brought})
}

// hold says that a call is over and that what it brought may wait in memory until the disk is sealed.
func (p *progress) hold(call uint64, d *disk) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.working, call)
	if low, ok := p.held[d]; !ok || call < low {
		p.held[d] = call
	}
}

// sealed says that nothing of a disk waits in pieces any more.
func (p *progress) sealed(d *disk) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if call, ok := p.held[d]; ok {
		delete(p.held, d)
		p.place(call)
	}
}

// news is the number below which all calls are durable, where it has grown since it was told last.
func (p *progress) news(frontier uint64) (below uint64, grown bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prune()
	below = p.settled
	switch {
	case p.hushed && time.Now().Before(p.reveal):
		return p.told, false
	case !p.hushed:
		below = p.lowest(frontier)
		for _, done := range p.placed {
			below = min(below, done.lowest)
		}
	}
	if below <= p.told {
		return p.told, false
	}
	p.told = below
	return below, true
}

// prune forgets what has become durable by itself. It wants the lock, as do the other two.
func (p *progress) prune() {
	if p.hushed {
		return
	}
	durable := p.of.Durable()
	n := 0
	for n < len(p.placed) && p.placed[n].stamp <= durable {
		n++
	}
	p.placed = append(p.placed[:0], p.placed[n:]...)
}

// lowest is the number below which all calls are over.
func (p *progress) lowest(frontier uint64) uint64 {
	for call := range p.working {
		frontier = min(frontier, call)
	}
	for _, call := range p.held {
		frontier = min(frontier, call)
	}
	return frontier
}

func (p *progress) brought() (bytes int64) {
	for _, done := range p.placed {
		bytes += done.bytes
	}
	return bytes
}

// unsettled is how many bytes were brought by calls that are over, and are not durable as far as is known.
func (p *progress) unsettled() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prune()
	return p.brought()
}
