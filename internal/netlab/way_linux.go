package netlab

import (
	"container/heap"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Counts are packets and bytes of one direction, with IP's headers and without those below.
type Counts struct {
	Packets, Bytes                    int64 // that came to the line
	Arrived, ArrivedBytes             int64 // that left it, duplicates included
	Lost, Overflowed, Cut, TooLarge   int64 // packets that did not: by chance, by a full queue, by a cut, by size
	Duplicated, Held, Refused, Direct int64 // Refused: the kernel took it no more. Direct: passed without waiting
}

// Way is one direction of a road. Its methods may be called by several goroutines at once.
type Way struct {
	line    atomic.Pointer[Line]
	severed atomic.Bool
	in, out *os.File
	mtu     int
	packets sync.Pool // of *packet
	done    chan struct{}
	wake    chan struct{} // a packet came that is due before all others

	mu      sync.Mutex
	model   model
	pending arrivals
	bytes   int64 // of what is pending
	writing bool
	counts  Counts
}

// packet is a packet under way.
type packet struct {
	at    time.Time
	order uint64 // among those that are due at once
	buf   []byte
}

// Set changes what the line is like, for packets that come from now on.
func (w *Way) Set(l Line) { w.line.Store(&l) }

// Line is what the line is like.
func (w *Way) Line() Line { return *w.line.Load() }

// Cut loses every packet from now on, also those that are under way.
func (w *Way) Cut() { w.severed.Store(true) }

// Restore ends a cut.
func (w *Way) Restore() { w.severed.Store(false) }

// Counts are the counts so far.
func (w *Way) Counts() Counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// read takes packets from the one device until it is closed.
func (w *Way) read() {
	for {
		p := w.packets.Get().(*packet)
		n, err := w.in.Read(p.buf[:w.mtu])
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			w.packets.Put(p)
			time.Sleep(time.Millisecond) // a device that is down for a moment
			continue
		}
		p.buf = p.buf[:n]
		if w.take(p, time.Now()) {
			w.put(p, true)
		}
	}
}

// take decides about a packet; true: it is to be passed on right now.
func (w *Way) take(p *packet, now time.Time) bool {
	line := w.line.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p.buf)
	w.counts.Packets++
	w.counts.Bytes += int64(n)
	f, at, twice := cut, arrival{}, false
	if !w.severed.Load() {
		f, at, twice = w.model.packet(line, n, now)
	}
	if f == passes && w.bytes+int64(n) > mostPending {
		f = overflowed
	}
	if f != passes {
		w.count(f)
		w.packets.Put(p)
		return false
	}
	if at.held {
		w.counts.Held++
	}
	if twice {
		w.counts.Duplicated++
		q := w.packets.Get().(*packet)
		q.buf = append(q.buf[:0], p.buf...)
		w.push(q, at.at)
	}
	if !at.at.After(now) && len(w.pending) == 0 && !w.writing {
		return true
	}
	w.push(p, at.at)
	return false
}

func (w *Way) count(f fate) {
	switch f {
	case cut:
		w.counts.Cut++
	case lost:
		w.counts.Lost++
	case overflowed:
		w.counts.Overflowed++
	case tooLarge:
		w.counts.TooLarge++
	}
}

func (w *Way) push(p *packet, at time.Time) {
	p.at, p.order = at, uint64(w.counts.Packets)
	heap.Push(&w.pending, p)
	w.bytes += int64(len(p.buf))
	if w.pending[0] == p {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// write passes packets on when they are due.
func (w *Way) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p, wait := w.due(time.Now())
		if p != nil {
			w.put(p, false)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.wake:
		case <-w.done:
			return
		}
	}
}

// due takes the first packet if its time has come, else says how long that takes.
func (w *Way) due(now time.Time) (*packet, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	if len(w.pending) == 0 {
		return nil, time.Hour
	}
	if wait := w.pending[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	p := heap.Pop(&w.pending).(*packet)
	w.bytes -= int64(len(p.buf))
	w.writing = true
	return p, 0
}

// put hands a packet to the other device.
func (w *Way) put(p *packet, direct bool) {
	severed, n := w.severed.Load(), len(p.buf)
	var err error
	if !severed {
		_, err = w.out.Write(p.buf)
	}
	w.packets.Put(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case severed:
		w.counts.Cut++
	case err != nil:
		w.counts.Refused++
	default:
		w.counts.Arrived++
		w.counts.ArrivedBytes += int64(n)
		if direct {
			w.counts.Direct++
		}
	}
}

// arrivals is a heap by time, then by the order in which packets came.
type arrivals []*packet

func (a arrivals) Len() int { return len(a) }
func (a arrivals) Less(i, j int) bool {
	if !a[i].at.Equal(a[j].at) {
		return a[i].at.Before(a[j].at)
	}
	return a[i].order < a[j].order
}
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)   { *a = append(*a, x.(*packet)) }
func (a *arrivals) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return p
}
