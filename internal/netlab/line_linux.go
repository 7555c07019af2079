package netlab

import (
	"math/rand/v2"
	"time"
)

// Line is one direction of a bad line. The zero value carries everything at once. Shares are from 0 to 1 and drawn for
// each packet by itself.
type Line struct {
	Delay     time.Duration
	Jitter    time.Duration // up to that much more, evenly; it does not change the order
	Loss      float64
	Duplicate float64
	Reorder   float64       // these are held back, so that later ones overtake them
	HoldBack  time.Duration // how long; 0: 10 ms
	Rate      int64         // bits per second, of IP packets with their headers; 0: none
	Queue     int           // bytes that wait for the rate; what comes on top is lost. 0: see queue
	MaxPacket int           // larger packets vanish without a word: a path that drops what it should refuse. 0: none
}

const (
	holdBack    = 10 * time.Millisecond
	leastQueue  = 64 << 10
	mostPending = 64 << 20 // bytes under way without a rate: this process's memory
)

// queue is how much waits: by default one and a half times what is under way on the line there and back.
func (l *Line) queue() int64 {
	if l.Queue > 0 {
		return int64(l.Queue)
	}
	return max(int64(3*l.Delay.Seconds()*float64(l.Rate)/8), leastQueue)
}

// fate is what becomes of a packet.
type fate int

// The fates.
const (
	passes fate = iota
	cut
	lost
	overflowed
	tooLarge
)

// model is a line with its past: it says when a packet arrives. It knows no clock and moves no bytes.
type model struct {
	rnd  *rand.Rand
	free time.Time // when all that the line has taken will be sent
	last time.Time // when the last packet that keeps its order arrives
}

// arrival is one copy of a packet at the other end.
type arrival struct {
	at   time.Time
	held bool
}

// packet decides about a packet of n bytes at now. The second arrival, where there is one, is a duplicate.
func (m *model) packet(l *Line, n int, now time.Time) (fate, arrival, bool) {
	switch {
	case l.MaxPacket > 0 && n > l.MaxPacket:
		return tooLarge, arrival{}, false
	case l.Loss > 0 && m.rnd.Float64() < l.Loss:
		return lost, arrival{}, false
	}
	sent, ok := m.send(l, n, now)
	if !ok {
		return overflowed, arrival{}, false
	}
	at := sent.Add(l.Delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(m.rnd.Int64N(int64(l.Jitter) + 1)))
	}
	if at.Before(m.last) {
		at = m.last
	}
	twice := l.Duplicate > 0 && m.rnd.Float64() < l.Duplicate
	if l.Reorder > 0 && m.rnd.Float64() < l.Reorder {
		hold := l.HoldBack
		if hold <= 0 {
			hold = holdBack
		}
		return passes, arrival{at.Add(hold), true}, twice
	}
	m.last = at
	return passes, arrival{at, false}, twice
}

// send is when the last bit of n bytes is on the line; false: its queue is full.
func (m *model) send(l *Line, n int, now time.Time) (time.Time, bool) {
	if m.free.Before(now) || l.Rate <= 0 {
		m.free = now
	}
	if l.Rate <= 0 {
		return now, true
	}
	waiting := int64(m.free.Sub(now).Seconds() * float64(l.Rate) / 8)
	if waiting+int64(n) > l.queue() {
		return time.Time{}, false
	}
	m.free = m.free.Add(time.Duration(float64(n) * 8 / float64(l.Rate) * float64(time.Second)))
	return m.free, true
}
