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
}

// span is calls from one number to before another.
type span struct{ from, to uint64 }

// overdue is how long a call may be behind later ones: far longer than a connection that is dead goes unnoticed.
const overdue = 5 * time.Minute

// maxSpans bounds how many gaps are waited for.
const maxSpans = 4096

// saw counts a call that has come. It reports false for one that nobody waits for any more.
func (f *frontier) saw(call uint64) (expected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = max(f.next, 1)
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
	if len(f.ahead) > 0 && time.Since(f.since) > overdue {
		f.skip()
	}
	return max(f.next, 1)
}

// progress knows which calls brought what is not durable yet, for one writer whose backend can tell.
type progress struct {
	of pipe.Durable

	mu      sync.Mutex
	working map[uint64]struct{} // under way
	placed  []placed            // by stamp, ascending
	held    map[*disk]uint64    // lowest call that left a block of a disk in pieces, until the disk is sealed
	told    uint64
}

// placed are the calls that ended under one stamp: of those only the lowest number counts, so that a disk of which
// nothing is new takes no memory here.
type placed struct {
	stamp, lowest uint64
}

func newProgress(of pipe.Durable) *progress {
	return &progress{of: of, working: map[uint64]struct{}{}, held: map[*disk]uint64{}, told: 1}
}

func (p *progress) begin(call uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.working[call] = struct{}{}
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
	stamp := p.of.Stamp() // taken under the lock, so that they ascend
	if n := len(p.placed); n > 0 && p.placed[n-1].stamp >= stamp {
		p.placed[n-1].lowest = min(p.placed[n-1].lowest, call)
		return
	}
	p.placed = append(p.placed, placed{stamp, call})
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
	durable := p.of.Durable()
	n := 0
	for n < len(p.placed) && p.placed[n].stamp <= durable {
		n++
	}
	p.placed = append(p.placed[:0], p.placed[n:]...)
	below = frontier
	for call := range p.working {
		below = min(below, call)
	}
	for _, done := range p.placed {
		below = min(below, done.lowest)
	}
	for _, call := range p.held {
		below = min(below, call)
	}
	if below <= p.told {
		return p.told, false
	}
	p.told = below
	return below, true
}
