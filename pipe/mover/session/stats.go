package session

import (
	"sync/atomic"
	"time"
)

// Stats is what a session has done so far, or what all sessions of a server have.
type Stats struct {
	Sessions   int           // that are open
	Lingering  int           // that have no lane now
	Lanes      int           // that are open
	Greeting   int           // connections that have not said Hello
	BytesIn    int64         // from connections, frames and all, without TLS
	BytesOut   int64         //
	Calls      int64         // that were made or begun
	Retries    int64         // calls that were sent again
	Resent     int64         // bytes of those
	Repeated   int64         // calls that came again, and were not begun again
	Reconnects int64         // lanes that were opened after the first
	Refused    int64         // connections
	Sending    time.Duration // that writers waited for their connections to take more; those that are open at once add up
	RTT        time.Duration // the shortest round trip; 0: not known
}

// counters are the parts of Stats that only grow.
type counters struct {
	in, out, calls, retries, resent, repeated, reconnects, refused, sending atomic.Int64
}

// addTo adds the counters to s.
func (c *counters) addTo(s *Stats) {
	s.BytesIn += c.in.Load()
	s.BytesOut += c.out.Load()
	s.Calls += c.calls.Load()
	s.Retries += c.retries.Load()
	s.Resent += c.resent.Load()
	s.Repeated += c.repeated.Load()
	s.Reconnects += c.reconnects.Load()
	s.Refused += c.refused.Load()
	s.Sending += time.Duration(c.sending.Load())
}

// addTo adds the link's state to s.
func (l *link) addTo(s *Stats) {
	l.counters.addTo(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Sessions++
	s.Lanes += len(l.lanes)
	if len(l.lanes) == 0 {
		s.Lingering++
	}
	if l.rtt > 0 && (s.RTT == 0 || l.rtt < s.RTT) {
		s.RTT = l.rtt
	}
}

// take adds what another has counted.
func (c *counters) take(o *counters) {
	for _, p := range [][2]*atomic.Int64{{&c.in, &o.in}, {&c.out, &o.out}, {&c.calls, &o.calls}, {&c.retries, &o.retries},
		{&c.resent, &o.resent}, {&c.repeated, &o.repeated}, {&c.reconnects, &o.reconnects}, {&c.refused, &o.refused}, {&c.sending, &o.sending}} {
		p[0].Add(p[1].Load())
	}
}
