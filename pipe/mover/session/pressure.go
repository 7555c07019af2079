package session

import (
	"sync"
	"time"
)

// When another lane is worth it.
const (
	stalls   = 500 * time.Microsecond // a read or write that takes longer waits for the line and not for the processor
	epochMin = 200 * time.Millisecond
	busyRead = 256 << 10 // bytes in an epoch that make waiting for more a sign of a slow line

	heartbeats = 1 << 10 // a read of less does not tell that more was on its way

	nearLine = 2 * time.Millisecond // round trips below are of a LAN
	farLine  = 5 * time.Millisecond
)

// pressure measures whether a session waits for its line: how long its lanes stood still in writes, and in reads while
// much came, in an epoch of some round trips.
type pressure struct {
	mu    sync.Mutex
	begun time.Time
	stood struct{ writing, reading time.Duration }
	in    int64
	judge func(epoch) // gets each epoch that is over; nil: nobody opens lanes here
}

// epoch is what was seen in one.
type epoch struct {
	took             time.Duration
	writing, reading time.Duration // of all lanes together
	in               int64
}

func (p *pressure) went(n int, took time.Duration) {
	if took >= stalls {
		p.note(0, took, 0)
	}
}

func (p *pressure) came(n int, took time.Duration) {
	if took < stalls || n < heartbeats {
		took = 0 // or it waited for somebody to say something
	}
	p.note(int64(n), 0, took)
}

// note counts, and judges when an epoch is over. An epoch begins with the first that is noted behind the last one, and
// ends with the first that is noted when it is long enough: on a slow line one write may take seconds.
func (p *pressure) note(in int64, writing, reading time.Duration) {
	if p.judge == nil {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if p.begun.IsZero() {
		p.begun = now.Add(-max(writing, reading))
		p.stood.writing, p.stood.reading, p.in = 0, 0, 0
	}
	took := now.Sub(p.begun)
	p.in += in
	p.stood.writing += min(writing, took)
	p.stood.reading += min(reading, took)
	if took < epochMin {
		p.mu.Unlock()
		return
	}
	e := epoch{took: took, writing: p.stood.writing, reading: p.stood.reading, in: p.in}
	p.begun = time.Time{}
	p.mu.Unlock()
	p.judge(e)
}

// worth is how many lanes a session should have that has some and saw e. rtt is the shortest round trip, full whether
// calls wait to be sent.
func (e epoch) worth(lanes int, rtt time.Duration, full bool) int {
	most := 8
	switch {
	case rtt == 0:
		return lanes
	case rtt < nearLine:
		most = 2
	case rtt < farLine:
		most = 4
	}
	all := time.Duration(lanes) * e.took
	writing := full && 2*e.writing >= all
	reading := rtt >= nearLine && e.in >= busyRead && 2*e.reading >= all
	switch {
	case !writing && !reading, lanes >= most:
		return lanes
	case rtt >= farLine:
		return min(2*lanes, most)
	}
	return lanes + 1
}
