package mover

import (
	"maps"
	"slices"
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
	next  uint64 // 0 stands for 1
	ahead map[uint64]struct{}
	since time.Time // when next was first waited for
}

// overdue is how long a call may be behind later ones: far longer than a connection that is dead goes unnoticed.
const overdue = 5 * time.Minute

// saw counts a call that has come. It reports false for one that nobody waits for any more.
func (f *frontier) saw(call uint64) (expected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = max(f.next, 1)
	switch {
	case call < f.next:
		return false
	case call > f.next:
		if len(f.ahead) == 0 {
			f.ahead, f.since = map[uint64]struct{}{}, time.Now()
		}
		f.ahead[call] = struct{}{}
		return true
	}
	f.step(f.next)
	return true
}

// step goes on to behind a call, and behind those that came before it.
func (f *frontier) step(call uint64) {
	for f.next = call + 1; ; f.next++ {
		if _, ok := f.ahead[f.next]; !ok {
			break
		}
		delete(f.ahead, f.next)
	}
	f.since = time.Now()
}

func (f *frontier) at() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ahead) > 0 && time.Since(f.since) > overdue {
		first := slices.Min(slices.Collect(maps.Keys(f.ahead)))
		delete(f.ahead, first)
		f.step(first)
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
