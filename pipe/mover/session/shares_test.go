package session

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Where sessions end at the same moment, the others keep the newest part and not one that was worked out before it: the
// one who tells it is held up here in the middle.
func TestShareThatIsToldLate(t *testing.T) {
	for range 20 { // in which order sessions are told is chance
		s := NewServer(&ServerOptions{Memory: 16 << 20, Window: 8 << 20})
		all := make([]*hosted, 9)
		for i := range all {
			h := &hosted{server: s, key: key{id: [16]byte{byte(i)}}, link: newLink(slog.New(slog.DiscardHandler))}
			h.link.answers = newAnswerer(h.link, newLedger())
			s.sessions[h.key] = h
			all[i] = h
		}
		s.reshare()
		stays, holdsUp := all[0], all[1]
		require.Equal(t, uint64(1<<20), stays.link.credit.Window)

		holdsUp.link.mu.Lock()
		var telling sync.WaitGroup
		telling.Go(func() { s.unlist(all[8]) })
		soon(t, "the part is known", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.share.Window == 2<<20
		})
		for _, h := range all[2:8] {
			telling.Go(func() { s.unlist(h) })
		}
		time.Sleep(2 * time.Millisecond) // who is not held up gets far enough
		holdsUp.link.mu.Unlock()
		telling.Wait()
		require.Equal(t, uint64(8<<20), stays.link.credit.Window)
		require.Equal(t, uint64(8<<20), holdsUp.link.credit.Window)
	}
}

// Limits that were told on a slow lane do not replace newer ones that came by a fast lane.
func TestCreditOvertakes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		s.prep = func(n int, _, server *memConn) {
			if n == 0 {
				server.out.delay = 3 * time.Second
			}
		}
		c := s.client(&ClientOptions{Lanes: 2})
		defer c.Close()
		time.Sleep(time.Minute)
		h := s.hosted()
		require.Len(t, h.link.lanes, 2)
		say := func(lane int, window uint64) {
			h.link.lanes[lane].heard.Store(h.link.now() + 1) // it is the best
			h.regrant(wire.Credit{MaxCalls: 8, Window: window})
			time.Sleep(100 * time.Millisecond)
		}
		say(0, 1<<20)
		say(1, 2<<20)
		time.Sleep(time.Minute)
		require.Equal(t, uint64(2<<20), c.Limits().Window)
	})
}
