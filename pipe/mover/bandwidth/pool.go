package bandwidth

import (
	"slices"
	"sync"
	"time"
)

// Times of the scheduler.
const (
	shortWait = time.Millisecond       // timers are not more exact
	longWait  = 20 * time.Millisecond  // of what a bucket holds, so that nothing accrues in vain
	memory    = 100 * time.Millisecond // a session that asked within it counts as one with something to carry
	spread    = 200 * time.Microsecond // tokens are not handed out more often
)

// pool is one direction of a shaper: it hands the total's tokens to sessions, and lets connections take pieces.
type pool struct {
	mu     sync.Mutex
	rules  Rules
	limits Limits // what holds in the second below
	second int64
	total  bucket
	handed time.Time         // when tokens were handed out last
	shares map[string]*share // of sessions that have connections
	active []*share
	timer  *time.Timer // runs while somebody waits
	armed  bool
}

// share is a session's part of a pool.
type share struct {
	name   string
	conns  int
	credit float64 // bytes of the total that are this session's
	own    bucket
	queue  []*flow // connections that wait, in turn
	asked  time.Time
	active bool
}

// flow is one connection's direction.
type flow struct {
	share   *share
	own     bucket
	want    int      // bytes that it waits for
	granted chan int // holds one grant
	gone    bool     // its connection was closed
}

func newPool(rules Rules) *pool { return &pool{rules: rules, shares: map[string]*share{}} }

// join adds a connection of a session.
func (p *pool) join(name string) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shares[name]
	if s == nil {
		s = &share{name: name}
		p.shares[name] = s
	}
	s.conns++
	return &flow{share: s, granted: make(chan int, 1)}
}

// leave takes a connection away, and with the last one the session.
func (p *pool) leave(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.gone = true
	f.share.drop(f)
	if f.share.conns--; f.share.conns == 0 {
		delete(p.shares, f.share.name)
		p.retire(time.Now())
	}
}

func (s *share) drop(f *flow) {
	s.queue = slices.DeleteFunc(s.queue, func(g *flow) bool { return g == f })
}

// set changes the rules. Who waits goes on under the new ones at once.
func (p *pool) set(rules Rules) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.second = rules, 0
	p.serve(time.Now())
}

// look takes up what the rules say of this second. Reading the clock each time, instead of a timer for the next edge,
// makes clocks that are set or change over to summer time need no thought.
func (p *pool) look(now time.Time) {
	if s := now.Unix(); s != p.second || s == 0 {
		p.second, p.limits = s, atLeast(p.rules.At(now))
	}
}

// atLeast raises limits to the least rate that counts.
func atLeast(l Limits) Limits {
	for _, rate := range []*int64{&l.Total, &l.PerSession, &l.PerConnection} {
		if *rate > 0 {
			*rate = max(*rate, minRate)
		}
	}
	return l
}

// bound is how many bytes to carry at once now, and whether they have to be paid for.
func (p *pool) bound(now time.Time) (n int, limited bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look(now)
	if p.limits.none() {
		return freePiece, false
	}
	return p.piece(), true
}

// piece is what is granted at once. With many connections at a slow total it is small enough for each to get something
// every second or so, because heartbeats go the same way.
func (p *pool) piece() int {
	n := maxPiece
	if p.limits.Total > 0 {
		conns := 1
		for _, s := range p.active {
			conns += s.conns
		}
		n = min(n, pieceOf(float64(p.limits.Total)), max(int(p.limits.Total)/conns, minPiece))
	}
	if p.limits.PerSession > 0 {
		n = min(n, pieceOf(float64(p.limits.PerSession)))
	}
	if p.limits.PerConnection > 0 {
		n = min(n, pieceOf(float64(p.limits.PerConnection)))
	}
	return n
}

// ask wants n bytes for f. What may pass at once is returned; 0: what may pass comes by f.granted, later, unless the
// connection was closed.
func (p *pool) ask(f *flow, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.gone {
		return 0
	}
	now, s := time.Now(), f.share
	f.want, s.asked = n, now
	p.look(now)
	if p.limits.none() {
		return n
	}
	if !s.active {
		s.active = true
		p.active = append(p.active, s)
	}
	s.queue = append(s.queue, f)
	p.serveShare(now, s)
	if len(f.granted) == 0 && now.Sub(p.handed) >= spread {
		p.hand(now)
		p.serveShare(now, s)
	}
	select {
	case m := <-f.granted:
		return m
	default:
		p.arm()
		return 0
	}
}

// withdraw ends a wait. What was granted meanwhile is returned, for it is paid.
func (p *pool) withdraw(f *flow) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.share.drop(f)
	select {
	case n := <-f.granted:
		return n
	default:
		return 0
	}
}

// take pays for a piece of what f wants. Where it cannot, shared says whether that is for want of what the session's
// connections share.
func (p *pool) take(now time.Time, f *flow) (n int, shared bool) {
	if p.limits.none() {
		return f.want, false
	}
	n = min(f.want, p.piece())
	if p.lacksShared(now, f.share, n) > 0 {
		return 0, true
	}
	if p.lacksOwn(now, f, n) > 0 {
		return 0, false
	}
	f.share.credit -= float64(n)
	f.share.own.level -= float64(n)
	f.own.level -= float64(n)
	return n, false
}

// lacksShared is how long n bytes of a session have to wait, about. A level without a limit is kept at what n needs.
func (p *pool) lacksShared(now time.Time, s *share, n int) (wait time.Duration) {
	if p.limits.Total > 0 {
		each := float64(p.limits.Total) / float64(max(len(p.active), 1))
		wait = timeFor(float64(n)-s.credit, each)
	} else {
		s.credit = float64(n)
	}
	return max(wait, s.own.lacks(now, n, p.limits.PerSession))
}

// lacksOwn is how long n bytes have to wait for the connection's own limit.
func (p *pool) lacksOwn(now time.Time, f *flow, n int) time.Duration {
	return f.own.lacks(now, n, p.limits.PerConnection)
}

// hand divides what has accrued of the total equally among the sessions with something to carry. A session that has
// enough takes no more; the others get it, and what nobody takes stays in the total.
func (p *pool) hand(now time.Time) {
	p.handed = now
	p.retire(now)
	if p.limits.Total <= 0 {
		return
	}
	p.total.fill(now, p.limits.Total)
	n := float64(max(len(p.active), 1))
	enough := max(2*maxPiece, float64(p.limits.Total)/n/20)
	for open := len(p.active); open > 0 && p.total.level >= 1; {
		each := p.total.level / float64(open)
		open = 0
		for _, s := range p.active {
			if s.credit >= enough {
				continue
			}
			give := min(each, enough-s.credit)
			s.credit += give
			p.total.level -= give
			if s.credit < enough {
				open++
			}
		}
	}
}

// retire takes the credit back of sessions that have nothing to carry.
func (p *pool) retire(now time.Time) {
	p.active = slices.DeleteFunc(p.active, func(s *share) bool {
		if len(s.queue) > 0 || s.conns > 0 && now.Sub(s.asked) < memory {
			return false
		}
		if p.limits.Total > 0 {
			p.total.level = min(p.total.level+max(s.credit, 0), burst(p.limits.Total))
		}
		s.credit, s.active = 0, false
		return true
	})
}

// serve grants what can be granted, and sees to it that it is called again where somebody still waits.
func (p *pool) serve(now time.Time) {
	p.look(now)
	p.hand(now)
	for _, s := range p.active {
		p.serveShare(now, s)
	}
	p.arm()
}

// serveShare goes through a session's queue once. A connection that is kept back by its own limit keeps its place and
// lets others pass; one that waits for what all share does not, or small writes would leave nothing for large ones.
func (p *pool) serveShare(now time.Time, s *share) {
	kept := s.queue[:0]
	for i, f := range s.queue {
		n, shared := p.take(now, f)
		switch {
		case n > 0:
			f.granted <- n
			s.asked = now
		case shared:
			kept = append(kept, s.queue[i:]...)
			clear(s.queue[len(kept):])
			s.queue = kept
			return
		default:
			kept = append(kept, f)
		}
	}
	clear(s.queue[len(kept):])
	s.queue = kept
}

// arm sets the timer for the first of those who wait.
func (p *pool) arm() {
	if p.armed {
		return
	}
	wait, now := time.Duration(-1), time.Now()
	for _, s := range p.active {
		for _, f := range s.queue {
			n := min(f.want, p.piece())
			d := max(p.lacksShared(now, s, n), p.lacksOwn(now, f, n))
			if wait < 0 || d < wait {
				wait = d
			}
		}
	}
	if wait < 0 {
		return
	}
	p.armed = true
	wait = min(max(wait, shortWait), longWait)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.tick)
		return
	}
	p.timer.Reset(wait)
}

func (p *pool) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	p.serve(time.Now())
}
