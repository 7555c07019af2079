package session

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// join finds the session that a Hello names, or begins it. resumed: it was there.
func (s *Server) join(ctx context.Context, peer trust.Peer, hello *wire.Hello) (h *hosted, resumed bool, err error) {
	h, resumed, err = s.reserve(peer, hello)
	if err != nil {
		return nil, false, err
	}
	if !resumed {
		s.open(ctx, h)
	}
	select {
	case <-h.opened:
		return h, resumed, h.failed
	case <-ctx.Done():
	}
	if !resumed { // it has no lane, and nobody else would ever notice
		h.emptied(nil)
	}
	return nil, false, ctx.Err()
}

// reserve finds a session or makes room for a new one.
func (s *Server) reserve(peer trust.Peer, hello *wire.Hello) (h *hosted, resumed bool, err error) {
	k := key{ownerOf(peer), hello.Session, hello.Role}
	s.mu.Lock()
	defer s.mu.Unlock()
	h = s.sessions[k]
	switch {
	case s.closed:
		return nil, false, refuseWith(wire.CodeBusy, "this mover ends")
	case h != nil:
		return h, true, nil
	case hello.Lane > 0:
		return nil, false, refuseWith(wire.CodeLost, "this session is not known here: it has ended, or this mover was started anew")
	case s.draining:
		return nil, false, refuseWith(wire.CodeBusy, "this mover is about to end")
	case len(s.sessions) >= s.opts.MaxSessions:
		return nil, false, refuseWith(wire.CodeBusy, "there are %d sessions", len(s.sessions))
	case s.perPeer[k.owner] >= s.opts.MaxPerPeer:
		return nil, false, refuseWith(wire.CodeBusy, "this peer has %d sessions", s.perPeer[k.owner])
	case hello.Role == wire.Caller && s.opts.Open == nil, hello.Role == wire.Collector && s.opts.Collect == nil:
		return nil, false, refuseWith(wire.CodeUnsupported, "this mover does not take lanes of that role")
	}
	h = &hosted{server: s, key: k, peer: peer, link: newLink(s.opts.Log.With("session", nameOf(k.id), "peer", peer.Name)), opened: make(chan struct{})}
	h.link.parted = h.emptied
	s.sessions[k] = h
	s.perPeer[k.owner]++
	s.running.Add(1)
	return h, false, nil
}

// open makes the session's handler.
func (s *Server) open(ctx context.Context, h *hosted) {
	defer close(h.opened)
	l := h.link
	ctx = context.WithValue(ctx, nameKey{}, nameOf(h.key.id))
	var handler Handler
	var err error
	if h.key.role == wire.Collector {
		l.calls = newCaller(l)
		handler, err = s.opts.Collect(ctx, h.peer, &Client{link: l, id: h.key.id, peer: h.peer.Name})
	} else {
		handler, err = s.opts.Open(ctx, h.peer, l.push)
	}
	if err != nil {
		h.failed = err
		l.end(err, nil)
		s.forget(h)
		return
	}
	l.mu.Lock()
	l.answers = newAnswerer(l, handler)
	over := l.err != nil
	l.mu.Unlock()
	s.reshare()
	s.grant(h)
	if over { // somebody has ended it meanwhile, and found nothing to close
		go l.answers.close()
	}
	go h.wait()
}

// enter takes a lane into its session. Where there are too many, the one that was silent for longest goes: it is most
// likely the remainder of one that broke.
func (s *Server) enter(h *hosted, a *lane) error {
	if err := h.link.add(a); err != nil {
		return refuseWith(wire.CodeLost, "the session has ended: %v", err)
	}
	h.stay()
	if old := h.link.tooMany(s.opts.MaxLanes, a); old != nil {
		old.fail(errReplaced)
	}
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		h.link.push(&wire.Drain{})
	}
	return nil
}

// errReplaced ends a lane that makes room for another.
var errReplaced = errors.New("another lane has taken its place")

// tooMany is the lane to close where there are more than most, never the one that just came.
func (l *link) tooMany(most int, new *lane) (old *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lanes) <= most {
		return nil
	}
	for _, a := range l.lanes {
		if a != new && (old == nil || a.heard.Load() < old.heard.Load()) {
			old = a
		}
	}
	return old
}

// stay ends the time that a session without lanes had left.
func (h *hosted) stay() {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	if h.linger != nil {
		h.linger.Stop()
		h.linger = nil
	}
}

// emptied starts the time that a session without lanes has left.
func (h *hosted) emptied(*lane) {
	s := h.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.link.live() > 0 || h.linger != nil || h.link.why() != nil {
		return
	}
	h.linger = time.AfterFunc(s.opts.Linger, func() {
		h.stay()
		if h.link.live() == 0 {
			h.link.end(fmt.Errorf("%w: nobody came for %v", ErrGaveUp, s.opts.Linger), nil)
		}
	})
}

// wait takes the session off the books when it is over and its handler closed.
func (h *hosted) wait() {
	<-h.link.over
	h.link.log.Info("a session has ended", "why", endingOf(h.link.why()))
	h.server.unlist(h)
	<-h.link.answers.closed
	h.server.running.Done()
}

// endingOf is why a session ended, for people: the one ordinary way has plain words.
func endingOf(err error) string {
	var told *wire.Refuse
	if errors.Is(err, ErrClosed) && errors.As(err, &told) && told.Code == wire.CodeClosed {
		return "the caller ended it"
	}
	return err.Error()
}

// nameKey is where a session's name stands in a context.
type nameKey struct{}

// NameIn is the name of the session that ctx is of, as both sides have it in their logs; "" where it is of none.
func NameIn(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}

// unlist takes a session off the books: from now on it is not known.
func (s *Server) unlist(h *hosted) {
	s.mu.Lock()
	if s.sessions[h.key] == h {
		delete(s.sessions, h.key)
		if s.perPeer[h.key.owner]--; s.perPeer[h.key.owner] == 0 {
			delete(s.perPeer, h.key.owner)
		}
		s.past.take(&h.link.counters)
	}
	if h.linger != nil {
		h.linger.Stop()
	}
	s.mu.Unlock()
	s.reshare()
}

// forget is unlist for a session that never was.
func (s *Server) forget(h *hosted) {
	s.unlist(h)
	s.running.Done()
}

// shareOf is what each of n sessions gets: a whole power of two of the memory's part, so that it changes seldom.
func (s *Server) shareOf(n int) wire.Credit {
	part := s.opts.Memory / int64(max(1, n))
	part = int64(1) << (bits.Len64(uint64(part)) - 1)
	window := min(s.opts.Window, max(leastWindow, part))
	return wire.Credit{MaxCalls: uint32(s.opts.MaxCalls), Window: uint64(window), Undurable: uint64(s.opts.Undurable)}
}

// grant gives one session its part.
func (s *Server) grant(h *hosted) {
	s.sharing.Lock()
	defer s.sharing.Unlock()
	s.mu.Lock()
	share := s.share
	s.mu.Unlock()
	h.regrant(share)
}

// reshare tells all sessions where their parts have changed. It is done by one at a time: where two sessions end at once,
// the part that was worked out first would otherwise be told last to some, and stay.
func (s *Server) reshare() {
	s.sharing.Lock()
	defer s.sharing.Unlock()
	s.mu.Lock()
	share := s.shareOf(len(s.sessions))
	same := share == s.share
	s.share = share
	var all []*hosted
	if !same {
		all = s.all()
	}
	s.mu.Unlock()
	for _, h := range all {
		h.regrant(share)
	}
}

// regrant gives a session its part. One that is being opened gets it then.
func (h *hosted) regrant(share wire.Credit) {
	h.link.mu.Lock()
	defer h.link.mu.Unlock()
	if h.link.answers != nil {
		h.link.setCredit(share)
	}
}

// all are the sessions. It wants the lock.
func (s *Server) all() []*hosted {
	all := make([]*hosted, 0, len(s.sessions))
	for _, h := range s.sessions {
		all = append(all, h)
	}
	return all
}

// Revoke ends the sessions of one enrolment of a peer. Those of a later one under the same name go on: it is another
// machine, or the same with a key that is good.
func (s *Server) Revoke(peer trust.Peer) {
	gone := ownerOf(peer)
	s.mu.Lock()
	all := slices.DeleteFunc(s.all(), func(h *hosted) bool { return h.key.owner != gone })
	s.mu.Unlock()
	for _, h := range all {
		h.link.end(fmt.Errorf("%w: the peer was revoked", ErrClosed), refuseWith(wire.CodeForbidden, "this peer was revoked"))
	}
}

// Drain begins the end: no session is begun, callers are told to hold back, and calls under way get to return until ctx
// ends or all have. The server is then to be closed. It returns ctx's error where calls are left.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	all := s.all()
	s.mu.Unlock()
	seconds := uint32(0)
	if until, ok := ctx.Deadline(); ok {
		seconds = uint32(max(0, time.Until(until)) / time.Second)
	}
	for _, h := range all {
		h.link.push(&wire.Drain{Seconds: seconds})
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for quiet := 0; quiet < 5; {
		if quiet++; s.underWay() > 0 {
			quiet = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// underWay is how many calls are being carried out, and answers not sent.
func (s *Server) underWay() (n int) {
	s.mu.Lock()
	all := s.all()
	s.mu.Unlock()
	for _, h := range all {
		h.link.mu.Lock()
		if h.link.answers != nil {
			n += h.link.answers.running
		}
		for _, a := range h.link.lanes {
			n += len(a.replies)
		}
		h.link.mu.Unlock()
	}
	return n
}

// Close ends all sessions and waits until their handlers are closed. Clients come back and find that they are not known
// any more, or, where this side is gone for good, give up.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	all := s.all()
	s.mu.Unlock()
	for _, h := range all {
		h.link.end(fmt.Errorf("%w: this mover ends", ErrClosed), refuseWith(wire.CodeBusy, "this mover ends; come back later"))
	}
	for _, h := range all {
		h.link.quiet(3 * farewellTime)
	}
	s.running.Wait()
	return nil
}

// Stats is what all sessions have done so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	all := s.all()
	st := Stats{Greeting: s.greeting}
	s.past.addTo(&st)
	s.mu.Unlock()
	for _, h := range all {
		h.link.addTo(&st)
	}
	return st
}
