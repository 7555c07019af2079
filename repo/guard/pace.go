package guard

import (
	"fmt"
	"sync"
	"time"
)

// How fast one key may add records to the log, which everybody reads to its end: a backup takes some three.
const (
	recordsEvery = time.Second // one more each
	recordsBurst = 200
)

// pace bounds how fast each key adds records.
type pace struct {
	mu sync.Mutex
	of map[[32]byte]*allowance // keys that are enrolled: the log bounds them
}

// allowance is how many records a key could add at some moment; it grows with time.
type allowance struct {
	left float64
	at   time.Time
}

// tooFast says that a key adds records faster than it may. To come later helps.
type tooFast struct{}

func (tooFast) Error() string {
	return fmt.Sprintf("more than %d log records at once, and more than one each %v, are too many for one key", recordsBurst, recordsEvery)
}

// Busy is how package moverstore knows it, and answers so that the client comes back.
func (tooFast) Busy() bool { return true }

// take takes one record from what a key may add, or is tooFast.
func (p *pace) take(key [32]byte) error {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.of[key]
	if a == nil {
		a = &allowance{recordsBurst, now}
		p.of[key] = a
	}
	a.left = min(recordsBurst, a.left+float64(now.Sub(a.at))/float64(recordsEvery))
	a.at = now
	if a.left < 1 {
		return tooFast{}
	}
	a.left--
	return nil
}

// A heartbeat is created every 20 s. A lease for which none came for three times as long is taken for dead, by the
// guard's own clock alone.
const stale = time.Minute

// signs are when leases last showed that somebody uses them.
type signs struct {
	mu   sync.Mutex
	last map[uint64]time.Time
}

// saw notes that a lease was begun, or that its heartbeat came.
func (s *signs) saw(lease uint64) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.last) >= 1024 {
		for n, at := range s.last {
			if now.Sub(at) > stale {
				delete(s.last, n)
			}
		}
	}
	s.last[lease] = now
}

// live reports whether a lease showed a sign of life lately. After a start of the guard it takes one heartbeat.
func (s *signs) live(lease uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.last[lease]
	return known && time.Since(at) <= stale
}
