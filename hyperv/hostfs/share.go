package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// share is the connections to one share. Calls take the one that fewest others use; another is made while all are in use and
// fewer than allowed.
type share struct {
	server, name string
	opts         Options

	dialing chan struct{} // one at a time: a server that comes back is not stormed
	over    context.Context
	end     context.CancelFunc

	mu     sync.Mutex
	links  []*link
	owned  map[*link]bool // by files that are written to: nobody else's calls can end them
	sealed bool           // the last connection was seen to encrypt
	been   bool           // there was a connection once
	enough time.Time      // no further connection before
}

// enoughFor is how long no further connection is tried after a server refused one while others live.
const enoughFor = 30 * time.Second

func newShare(server, name string, opts Options) *share {
	s := &share{server: server, name: name, opts: opts, dialing: make(chan struct{}, 1), owned: map[*link]bool{}}
	s.over, s.end = context.WithCancel(context.Background())
	return s
}

func (s *share) unc() string { return `\\` + s.server + `\` + s.name }

func (s *share) encrypted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed
}

// do runs a call on a connection, and on another where that was lost, for as long as the options allow. A call may be run
// more than once.
func (s *share) do(ctx context.Context, call func(l *link) error) error {
	var since time.Time
	for rounds := 1; ; rounds++ {
		l, err := s.get(ctx)
		if err != nil {
			return err
		}
		err = call(l)
		s.put(l)
		if !s.gone(ctx, l, err) {
			return err
		}
		switch {
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > s.opts.GiveUp:
			return fmt.Errorf("%s: %w: %w", s.unc(), ErrAway, err)
		}
		if err := s.sleep(ctx, min(time.Second, 10*time.Millisecond<<min(rounds, 7))); err != nil {
			return err
		}
	}
}

// gone reports whether a call ended because its connection did, which is then given up. A call whose caller left says nothing of
// its connection.
func (s *share) gone(ctx context.Context, l *link, err error) bool {
	switch {
	case err == nil, ctx.Err() != nil, s.over.Err() != nil:
		return false
	case !lost(err) && !l.dead():
		return false
	}
	l.kill()
	return true
}

// patient repeats a call while somebody else has the file open.
func (s *share) patient(ctx context.Context, call func() error) error {
	since := time.Now()
	for pause := 4 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := call()
		if !busy(err) || time.Since(since)+pause > s.opts.BusyWait {
			return err
		}
		if err := s.sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (s *share) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.over.Done():
		return fs.ErrClosed
	}
}

// get gives a connection, for a put.
func (s *share) get(ctx context.Context) (*link, error) {
	if l, err := s.take(false); l != nil || err != nil {
		return l, err
	}
	select {
	case s.dialing <- struct{}{}:
	default: // another is on the way; who can share one does not wait for it
		if l, err := s.take(true); l != nil || err != nil {
			return l, err
		}
		select {
		case s.dialing <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.over.Done():
			return nil, fs.ErrClosed
		}
	}
	defer func() { <-s.dialing }()
	if l, err := s.take(false); l != nil || err != nil { // somebody has just made one, or put one back
		return l, err
	}
	return s.dial(ctx, false)
}

// own gives a connection that is nobody else's, for a disown.
func (s *share) own(ctx context.Context) (*link, error) {
	select {
	case s.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.over.Done():
		return nil, fs.ErrClosed
	}
	defer func() { <-s.dialing }()
	return s.dial(ctx, true)
}

// disown ends such a connection.
func (s *share) disown(l *link) {
	s.mu.Lock()
	delete(s.owned, l)
	s.mu.Unlock()
	l.close()
}

// take gives the least used connection, unless another may be made and full is not set.
func (s *share) take(full bool) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.Err() != nil {
		return nil, fs.ErrClosed
	}
	s.links = slices.DeleteFunc(s.links, func(l *link) bool {
		if l.dead() {
			l.kill() // so that nothing waits on it
			l.forget()
			return true
		}
		return false
	})
	var least *link
	for _, l := range s.links {
		if least == nil || l.users < least.users {
			least = l
		}
	}
	more := len(s.links) < s.opts.Connections && !full && time.Now().After(s.enough)
	if least == nil || least.users > 0 && more {
		return nil, nil
	}
	least.users++
	return least, nil
}

func (s *share) put(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.users--
}

// dial makes a connection: at once or not at all the first time, and for as long as the options allow to a server that was there.
func (s *share) dial(ctx context.Context, own bool) (*link, error) {
	since := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		l, err := s.connect(ctx)
		if err == nil {
			if !s.add(l, own) {
				l.close()
				return nil, fs.ErrClosed
			}
			return l, nil
		}
		if other, closed := s.instead(own); other != nil || closed != nil {
			s.mu.Lock()
			s.enough = time.Now().Add(enoughFor)
			s.mu.Unlock()
			return other, closed
		}
		switch {
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), err)
		case refused(err):
			return nil, err
		case !s.known() || time.Since(since)+pause > s.opts.GiveUp:
			return nil, fmt.Errorf("%s: %w: %w", s.unc(), ErrAway, err)
		}
		if err := s.sleep(ctx, pause/2+rand.N(pause)); err != nil {
			return nil, err
		}
	}
}

// instead is what there is where no further connection can be made: one that others use, unless it has to be one's own.
func (s *share) instead(own bool) (*link, error) {
	if own {
		return nil, nil
	}
	return s.take(true)
}

func (s *share) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.been
}

// add takes a new connection into the pool, in use, or beside it, unless that is over.
func (s *share) add(l *link, own bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.Err() != nil {
		return false
	}
	if own {
		s.owned[l] = true
	} else {
		l.users = 1
		s.links = append(s.links, l)
	}
	s.sealed, s.been = l.line.Encrypted.Load(), true
	return true
}

// close logs off everywhere.
func (s *share) close() {
	s.mu.Lock()
	s.end()
	links := s.links
	for l := range s.owned {
		links = append(links, l)
	}
	s.links, s.owned = nil, map[*link]bool{}
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, l := range links {
		all.Go(l.close)
	}
	all.Wait()
}
