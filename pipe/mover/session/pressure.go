package session

import (
	"sync"
	"time"
)

// When another lane is worth it.
const (
	stalls   = 500 * time.Microsecond // a read or write that takes longer waits for the line and not for the processor
	epochMin = 200 * time.Millisecond

	heartbeats = 1 << 10 // a read that asks for less may wait for the other side to say something

	nearLine = 2 * time.Millisecond // round trips below are of a LAN
	farLine  = 5 * time.Millisecond
)

// pressure measures whether a session waits for its line: how long its lanes stood still in writes, and in reads of what
// was announced, in an epoch. How much came meanwhile says nothing: that the line is slow is what is to be found out.
type pressure struct {
	mu    sync.Mutex
	begun time.Time
	stood struct{ writing, reading time.Duration }
	judge func(epoch) // gets each epoch that is over; nil: nobody opens lanes here
}

// epoch is what was seen in one.
type epoch struct {
	took             time.Duration
	writing, reading time.Duration // of all lanes together
}

func (p *pressure) went(n int, took time.Duration) {
	if took >= stalls {
		p.note(took, 0)
	}
}

// came notes a read that asked for so many bytes. One that asks for many is in the middle of a frame: the rest of it is on
// its way, and only the line can be what it waits for.
func (p *pressure) came(asked int, took time.Duration) {
	if took < stalls || asked < heartbeats {
		took = 0
	}
	p.note(0, took)
}

// note counts, and judges when an epoch is over. An epoch begins with the first that is noted behind the last one, and
// ends with the first that is noted when it is long enough: on a slow line one write may take seconds.
func (p *pressure) note(writing, reading time.Duration) {
	if p.judge == nil {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if p.begun.IsZero() {
		p.begun = now.Add(-max(writing, reading))
		p.stood.writing, p.stood.reading = 0, 0
	}
	took := now.Sub(p.begun)
	p.stood.writing += min(writing, took)
	p.stood.reading += min(reading, took)
	if took < epochMin {
		p.mu.Unlock()
		return
	}
	e := epoch{took: took, writing: p.stood.writing, reading: p.stood.reading}
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
	reading := rtt >= nearLine && 2*e.reading >= all
	switch {
	case !writing && !reading, lanes >= most:
		return lanes
	case rtt >= farLine:
		return min(2*lanes, most)
	}
	return lanes + 1
}
