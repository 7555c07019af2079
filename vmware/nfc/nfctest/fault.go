package nfctest

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind int

// Faults. But for the first three they meet reads.
const (
	Refuse      FaultKind = iota // an error frame with Code
	Stall                        // no answer for Delay, then the answer
	Drop                         // the connection ends after the disk service has sent After bytes; Type does not matter
	WrongLength                  // a fragment that says another length than it has
	Reversed                     // the fragments come last first
	Duplicate                    // the first fragment comes twice
	Short                        // the last fragment is missing
	Oversized                    // the fragments' total is larger than what was asked
	Stray                        // a fragment lies outside of what was asked
)

// noFault is what a read has that nothing is to go wrong with.
const noFault FaultKind = -1

// Fault is something that goes wrong once, or several times, on any connection.
type Fault struct {
	Kind     FaultKind
	Type     uint32        // of the frame that it meets; 0: a transfer, type 7
	Skip     int           // so many frames of that type pass before
	Times    int           // 0: once; -1: always
	After    int64         // bytes, for Drop
	Together bool          // for Drop: After bytes of all the connections that it meets, not of each
	Delay    time.Duration // for Stall
	Code     uint32        // for Refuse

	left *atomic.Int64 // what is left of After for all together
}

// Fail arms a fault. Of several that fit the one armed first is used.
func (s *Server) Fail(f Fault) {
	if f.Type == 0 {
		f.Type = typeIO
	}
	if f.Times == 0 {
		f.Times = 1
	}
	if f.Together {
		f.left = new(atomic.Int64)
		f.left.Store(f.After)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// ClearFaults disarms all.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// fault says what is to go wrong with a frame of this type. Drop is asked for by connections, with its own function.
func (s *Server) fault(fits func(*Fault) bool) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.faults {
		f := &s.faults[i]
		if f.Times == 0 || !fits(f) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return *f, true
	}
	return Fault{}, false
}

func (s *Server) frameFault(kind uint32) (Fault, bool) {
	return s.fault(func(f *Fault) bool { return f.Kind != Drop && f.Type == kind })
}

// dropping is c, or c that ends after so many bytes.
func (s *Server) dropping(c net.Conn) net.Conn {
	f, ok := s.fault(func(f *Fault) bool { return f.Kind == Drop })
	if !ok {
		return c
	}
	if f.left == nil {
		f.left = new(atomic.Int64)
		f.left.Store(f.After)
	}
	return &dropper{Conn: c, left: f.left}
}

var errDropped = errors.New("nfctest: dropped, as asked")

// dropper ends a connection in the middle of a write.
type dropper struct {
	net.Conn
	left *atomic.Int64
}

func (d *dropper) Write(p []byte) (int, error) {
	rest := d.left.Add(-int64(len(p))) + int64(len(p))
	if int64(len(p)) <= rest {
		return d.Conn.Write(p)
	}
	n, _ := d.Conn.Write(p[:max(rest, 0)])
	d.Close()
	return n, errDropped
}
