package mover

import (
	"maps"
	"slices"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// claim is what only one writer of a peer has at a time.
type claim struct{ peer, vm string }

// attempt is a client's own number for one try to write a point.
type attempt struct{ peer, number string }

// claims are the points that are being written, the attempts that were begun last, and those that were committed last.
type claims struct {
	mu    sync.Mutex
	by    map[claim]*writer
	begun map[string][]begun // of each peer, in their order
	done  map[attempt]string // the point's id
	old   []attempt          // in their order
}

// begun is an attempt at a VM that was seen. A mover that was frozen and lost its session begins its attempt again as
// one that the target was started anew under does; what tells the two apart is that another attempt came between.
type begun struct {
	vm    string
	which [32]byte        // hash of the attempt's number; zero: it had none
	ended <-chan struct{} // nothing of it is under way any more
}

const (
	// maxAttempts is how many committed attempts are remembered. Who asks for one asks within the hour that a client waits.
	maxAttempts = 4096
	// maxBegun is how many attempts of a peer are remembered: a frozen mover is found out unless its peer has begun as
	// many points meanwhile.
	maxBegun = 4096
)

func newClaims() *claims {
	return &claims{by: map[claim]*writer{}, begun: map[string][]begun{}, done: map[attempt]string{}}
}

// committed remembers what an attempt became.
func (c *claims) committed(a attempt, point string) {
	if a.number == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.old) == maxAttempts {
		delete(c.done, c.old[0])
		c.old = slices.Delete(c.old, 0, 1)
	}
	c.done[a] = point
	c.old = append(c.old, a)
}

// pointOf is what an attempt became.
func (c *claims) pointOf(a attempt) (point string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	point, ok = c.done[a]
	return point, ok
}

// all are the points that are being written.
func (c *claims) all() []*writer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.by))
}

// take hands the claim over to w and returns who had it. Where w's attempt has been here before, and another after it,
// w gets nothing, and past is closed once nothing of the earlier try is under way.
func (c *claims) take(w *writer) (before *writer, past <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if past = c.note(w); past != nil {
		return nil, past
	}
	before = c.by[w.claim]
	c.by[w.claim] = w
	return before, nil
}

// note remembers w's attempt as the latest at its VM. It wants the lock.
func (c *claims) note(w *writer) (past <-chan struct{}) {
	list := c.begun[w.claim.peer]
	b := begun{vm: w.claim.vm, ended: w.ended}
	if w.attempt.number != "" {
		b.which = blake3.Sum256([]byte(w.attempt.number))
	}
	latest := true
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i].vm != b.vm:
		case b.which == [32]byte{} || list[i].which != b.which:
			latest = false
		case !latest:
			return list[i].ended
		default:
			list[i].ended = w.ended
			return nil
		}
	}
	if len(list) == maxBegun {
		list = slices.Delete(list, 0, 1)
	}
	c.begun[w.claim.peer] = append(list, b)
	return nil
}

// drop gives a claim up, if it is still w's.
func (c *claims) drop(w *writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[w.claim] == w {
		delete(c.by, w.claim)
	}
}

var errFenced = &wire.Fail{Code: wire.CodeFenced, Text: "a later session of this peer writes this VM now: nothing of this one counts"}
