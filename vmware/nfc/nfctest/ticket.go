package nfctest

import (
	"errors"
	"fmt"
	"time"
)

// Ticket lets one client in, once.
type Ticket struct {
	Session string    // what the client shows
	Service string    // what it asks for; empty: "vpxa-nfc"
	Write   bool      // disks may be opened for writing
	Expires time.Time // zero: in five minutes
}

// maxTickets bounds those that nobody has used.
const maxTickets = 10_000

// AddTicket makes a ticket known.
func (s *Server) AddTicket(t Ticket) error {
	if t.Session == "" || len(t.Session) > maxLine/2 {
		return errors.New("nfctest: a ticket without a session, or with a long one")
	}
	if t.Service == "" {
		t.Service = "vpxa-nfc"
	}
	now := time.Now()
	if t.Expires.IsZero() {
		t.Expires = now.Add(5 * time.Minute)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.tickets {
		if now.After(old.Expires) {
			delete(s.tickets, id)
		}
	}
	if _, twice := s.tickets[t.Session]; twice || len(s.tickets) >= maxTickets {
		return fmt.Errorf("nfctest: ticket %q is there already, or there are too many", t.Session)
	}
	s.tickets[t.Session] = t
	return nil
}

// take uses a ticket up.
func (s *Server) take(session string) (Ticket, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tickets[session]
	delete(s.tickets, session)
	return t, ok && time.Now().Before(t.Expires)
}
