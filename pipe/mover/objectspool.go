package mover

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// spool bounds the memory that objects on their way to a blind target's store take, over all sessions: an object is
// looked at as a whole before it is stored.
//
//	├──────── peers that only append ────────┤── full peers alone ──┤
//	  each: at most as much as is left then       spoolReserve
//
// The first peer gets half of the left part, a second one half of what the first one left, and so on: whatever those do
// who were taken over, whoever comes next finds room. The owner does in any case.
type spool struct {
	mu       sync.Mutex
	total    int64
	reserve  int64            // of total, for full peers
	used     int64            // of total
	appended int64            // of used, by peers that only append
	by       map[string]int64 // the same by peer
	holding  map[*object]struct{}
	swept    time.Time
}

// maxObjectIdle is how long an object may wait for its next part. A line that was down for longer brings it again.
const maxObjectIdle = time.Minute

var (
	errSpoolFull  = &wire.Fail{Code: wire.CodeBusy, Text: "too many objects are on their way here"}
	errObjectIdle = &wire.Fail{Code: wire.CodeBusy, Text: "no part of the object came for " + maxObjectIdle.String() + ", and it was dropped: bring it again"}
)

func newSpool(total, reserve int64) *spool {
	return &spool{total: total, reserve: reserve, by: map[string]int64{}, holding: map[*object]struct{}{}}
}

// fits says whether there is room now for an object. It takes none.
func (s *spool) fits(o *object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.check(o)
}

// check wants the lock.
func (s *spool) check(o *object) error {
	left := s.total - s.reserve - s.appended
	if o.size > s.total-s.used || !o.full && s.by[o.peer]+o.size > left-o.size {
		return errSpoolFull
	}
	return nil
}

// take gives an object room for its memory.
func (s *spool) take(o *object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(o); err != nil {
		return err
	}
	s.used += o.size
	if !o.full {
		s.appended += o.size
		s.by[o.peer] += o.size
	}
	s.holding[o] = struct{}{}
	return nil
}

// give takes an object's room back. It counts once.
func (s *spool) give(o *object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, holds := s.holding[o]; !holds {
		return
	}
	delete(s.holding, o)
	s.used -= o.size
	if o.full {
		return
	}
	s.appended -= o.size
	if s.by[o.peer] -= o.size; s.by[o.peer] == 0 {
		delete(s.by, o.peer)
	}
}

// sweepLately is sweep where that was not done for a while.
func (s *spool) sweepLately() {
	s.mu.Lock()
	lately := time.Since(s.swept) < maxObjectIdle/4
	s.mu.Unlock()
	if !lately {
		s.sweep()
	}
}

// sweep drops the objects for which nothing has come for too long, and says whether there were any.
func (s *spool) sweep() (dropped bool) {
	now := time.Now()
	s.mu.Lock()
	s.swept = now
	all := slices.Collect(maps.Keys(s.holding)) // an object's own lock is never taken inside this one
	s.mu.Unlock()
	for _, o := range all {
		dropped = o.dropIdle(now) || dropped
	}
	return dropped
}
