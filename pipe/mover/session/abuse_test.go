package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// RELIABILITY 1.7: what a peer without manners gets.

func TestSlowHello(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxGreeting: 3})
		defer s.close()
		start := time.Now()
		b, err := wire.Append(nil, wire.Frame{Message: &wire.Hello{Version: wire.Version, Role: wire.Caller}})
		require.NoError(t, err)
		slow := []*raw{s.raw("a"), s.raw("b"), s.raw("c")}
		for _, p := range slow {
			go func() {
				for i := range b {
					if _, err := p.conn.Write(b[i : i+1]); err != nil {
						return
					}
					time.Sleep(3 * time.Second)
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, wire.CodeBusy, s.raw("d").gone().Code, "no room for more that say nothing")
		for _, p := range slow {
			p.gone()
		}
		require.LessOrEqual(t, time.Since(start), 13*time.Second)
		require.Zero(t, s.server.Stats().Greeting)
		require.IsType(t, &wire.Welcome{}, s.raw("d").hello(1, 0))
	})
}

func TestBadHello(t *testing.T) {
	for name, tc := range map[string]struct {
		say  wire.Message
		code wire.Code
	}{
		"another version": {&wire.Hello{Version: 2}, wire.CodeVersion},
		"no Hello":        {&wire.Ping{}, wire.CodeInvalid},
		"unknown session": {&wire.Hello{Version: wire.Version, Role: wire.Caller, Lane: 1}, wire.CodeLost},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newSite(t, nil)
				defer s.close()
				p := s.raw("a")
				require.NoError(t, p.send(0, tc.say))
				require.Equal(t, tc.code, p.gone().Code)
				require.Zero(t, s.server.Stats().Sessions)
			})
		})
	}
}

// A frame that announces 2^31 bytes.
func TestHugeFrame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		p := s.raw("a")
		_, err := p.conn.Write([]byte{0x80, 0, 0, 0, byte(wire.KindHello), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		require.NoError(t, err)
		require.Equal(t, wire.CodeInvalid, p.gone().Code)
		p = s.raw("a")
		p.hello(1, 0)
		_, err = p.conn.Write([]byte{0x80, 0, 0, 0, byte(wire.KindPut), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
		require.NoError(t, err)
		p.gone()
		require.Equal(t, 1, s.server.Stats().Sessions, "the lane is gone, the session is not")
	})
}

// A peer cannot reach another's session, not even with its number.
func TestAnothersSession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		a := s.raw("a")
		a.hello(7, 0)
		require.Equal(t, wire.CodeLost, func() wire.Code {
			b := s.raw("b")
			require.NoError(t, b.send(0, &wire.Hello{Version: wire.Version, Role: wire.Caller, Session: [16]byte{7}, Lane: 1}))
			return b.gone().Code
		}())
		w := s.raw("b").hello(7, 0).(*wire.Welcome)
		require.False(t, w.Resumed)
		require.True(t, s.raw("a").hello(7, 1).(*wire.Welcome).Resumed)
		require.Equal(t, 2, s.server.Stats().Sessions)
	})
}

func TestNumbersOutOfRange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxCalls: 8})
		defer s.close()
		p := s.raw("a")
		p.hello(1, 0)
		require.NoError(t, p.send(16, put(16, 1)))
		require.IsType(t, &wire.Placed{}, p.next())
		require.NoError(t, p.send(17, put(17, 1)))
		require.Equal(t, wire.CodeInvalid, p.gone().Code)
		synctest.Wait()
		require.Zero(t, s.server.Stats().Sessions, "the session is over")
		require.Equal(t, 1, s.book(0).ended())
		s.book(0).once(t, 1)
	})
}

// Answers that are never acknowledged do not pile up.
func TestNoAcks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxCalls: 8})
		defer s.close()
		p := s.raw("a")
		p.hello(1, 0)
		for i := uint64(1); i < 17; i++ {
			require.NoError(t, p.send(i, put(int(i), 1)))
			p.next()
		}
		h := s.hosted()
		require.LessOrEqual(t, len(h.link.answers.table), 16)
		require.NoError(t, p.send(17, put(17, 1)))
		require.Equal(t, wire.CodeInvalid, p.gone().Code)
	})
}

// An acknowledgement forgets answers; a call below it comes late and is not begun, and an older one changes nothing.
func TestAcks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxCalls: 8})
		defer s.close()
		p := s.raw("a")
		p.hello(1, 0)
		for i := uint64(1); i <= 5; i++ {
			require.NoError(t, p.send(i, put(int(i), 1)))
			p.next()
		}
		require.NoError(t, p.send(0, &wire.Ack{Below: 10, Open: []uint64{3, 7, 8}}))
		require.NoError(t, p.send(0, &wire.Ack{Below: 6, Open: []uint64{3, 4}}))
		for _, again := range []uint64{1, 5, 6, 9} {
			require.NoError(t, p.send(again, put(int(again), 1)))
		}
		require.NoError(t, p.send(3, put(3, 1)))
		require.Equal(t, int64(3), p.next().(*wire.Placed).Stored, "it is told again")
		require.NoError(t, p.send(8, put(8, 1)))
		require.Equal(t, int64(8), p.next().(*wire.Placed).Stored)
		a := s.hosted().link.answers
		require.Len(t, a.table, 2)
		require.Len(t, a.open, 3)
		s.book(0).once(t, 6)
	})
}

// However much a peer sends at once, no more than its window is taken in.
func TestFlood(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{Window: 100_000, MaxCalls: 64})
		defer s.close()
		p := s.raw("a")
		p.hello(1, 0)
		goOn := make(chan struct{})
		s.book(0).hold = func(context.Context, wire.Message) error {
			<-goOn
			return nil
		}
		go func() {
			for i := uint64(1); i <= 60; i++ {
				if p.send(i, put(int(i), 10_000)) != nil {
					return
				}
			}
		}()
		synctest.Wait()
		a := s.hosted().link.answers
		require.LessOrEqual(t, a.under[brief].bytes, int64(100_000))
		require.Equal(t, 9, a.running)
		close(goOn)
		for range 60 {
			p.next()
		}
		s.book(0).once(t, 60)
	})
}

// A peer that floods with Pings and reads nothing gets one Pong kept for it.
func TestPingFlood(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		s.room = 512
		defer s.close()
		p := s.raw("a")
		p.hello(1, 0)
		start := time.Now()
		for p.send(0, &wire.Ping{}) == nil {
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(start), 30*time.Second)
		require.Zero(t, s.server.Stats().Lanes)
	})
}

// hosted is the only session of the site.
func (s *site) hosted() *hosted {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	all := s.server.all()
	require.Len(s.t, all, 1)
	return all[0]
}
