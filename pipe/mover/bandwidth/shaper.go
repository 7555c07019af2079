package bandwidth

import (
	"net"
	"time"
)

// Shaper holds what connections carry within its rules. It may be used by several goroutines at once, and needs no end:
// it keeps nothing of connections that are closed.
type Shaper struct{ in, out *pool }

// New returns a shaper.
func New(rules Rules) *Shaper { return &Shaper{in: newPool(rules), out: newPool(rules)} }

// Set changes the rules. Connections that wait go on under the new ones at once.
func (s *Shaper) Set(rules Rules) {
	s.in.set(rules)
	s.out.set(rules)
}

// Rules are the rules that hold.
func (s *Shaper) Rules() Rules {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return s.out.rules
}

// Now are the limits of this moment.
func (s *Shaper) Now() Limits { return s.Rules().At(time.Now()) }

// Session names a session. Two calls with one name mean the same session.
func (s *Shaper) Session(name string) *Session { return &Session{s, name} }

// Session is a session whose connections share what it gets.
type Session struct {
	shaper *Shaper
	name   string
}

// Conn returns a connection that carries what conn carries, within the shaper's rules. Deadlines go through, and end
// waits for a limit as well; so does Close, which closes conn. The time that reads and writes wait counts for their
// deadlines: whoever sets some should allow a whole message to pass at the limit, or set them anew while it moves.
//
// What a read brings is paid for before the next one begins, so that no data is held back.
func (s *Session) Conn(conn net.Conn) net.Conn {
	return &shaped{
		Conn:   conn,
		read:   newSide(s.shaper.in, s.name),
		write:  newSide(s.shaper.out, s.name),
		closed: make(chan struct{}),
	}
}
