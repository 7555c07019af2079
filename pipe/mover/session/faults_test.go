package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// RELIABILITY 1.2: the line is cut at any byte, in either direction, again and again.
func TestCutAnywhere(t *testing.T) {
	for i := range 200 {
		r := rand.New(rand.NewPCG(4, uint64(i)))
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { cutAnywhere(t, r) })
		})
	}
}

func cutAnywhere(t *testing.T, r *rand.Rand) {
	const window = 64 << 10
	s := newSite(t, &ServerOptions{Window: window, MaxCalls: 16})
	defer s.close()
	s.prep = func(n int, client, server *memConn) {
		switch {
		case n > 4:
		case r.IntN(2) == 0:
			client.out.cut = r.Int64N(60 << 10)
		default:
			server.out.cut = r.Int64N(1200)
		}
	}
	c := s.client(&ClientOptions{Patience: time.Minute, Lanes: 1 + r.IntN(2)})
	defer c.Close()
	putAll(t, c, 40, 6000, 12)
	require.Len(t, s.books, 1, "one session")
	s.book(0).once(t, 40)
	st := c.Stats()
	require.LessOrEqual(t, st.Resent, (st.Reconnects+1)*window, "at most a window is sent again per connection")
}

// The call was carried out, and the cut takes its answer: it is told again and not carried out again.
func TestAnswerLost(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		arrived, goOn := make(chan struct{}), make(chan struct{})
		s.book(0).hold = func(context.Context, wire.Message) error {
			close(arrived)
			<-goOn
			return nil
		}
		go func() {
			<-arrived
			s.setDown(true)
			s.cutAll()
			synctest.Wait()
			close(goOn)
			time.Sleep(time.Minute)
			s.setDown(false)
		}()
		putAll(t, c, 1, 5000, 1)
		s.book(0).once(t, 1)
		require.Equal(t, int64(1), s.server.Stats().Repeated)
		require.Equal(t, int64(1), c.Stats().Retries)
	})
}

// The bar: a black hole is found within 30 s at 20 phases of a session, by both sides, and nothing of it is left.
func TestBlackHole(t *testing.T) {
	phases := []int64{1, 10, 46, 47, 60, 62, 70, 80, 100, 150, 200, 500, 1000, 2000, 5000, 8000, 16000, 32000, 48000, 90000}
	for _, at := range phases {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newSite(t, &ServerOptions{Window: 64 << 10})
				defer s.close()
				s.prep = func(n int, client, _ *memConn) {
					if n == 0 {
						client.out.darkAt = at
					}
				}
				start := time.Now()
				c := s.client(&ClientOptions{Patience: time.Minute, Lanes: 1})
				defer c.Close()
				putAll(t, c, 20, 5000, 4)
				took := time.Since(start)
				require.LessOrEqual(t, took, 30*time.Second)
				time.Sleep(30*time.Second - took + time.Second)
				s.mu.Lock()
				defer s.mu.Unlock()
				require.Equal(t, len(s.conns)-1, len(s.errs), "the server has let go of the dark connection")
				require.Equal(t, 1, c.Stats().Lanes)
				require.Equal(t, 1, s.server.Stats().Lanes)
			})
		})
	}
}

// What a dark connection held is gone when it was found: as many goroutines as before, and no memory of the window.
func TestNothingLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(&ClientOptions{Lanes: 2})
		defer c.Close()
		time.Sleep(10 * time.Second)
		putAll(t, c, 100, 10_000, 10)
		synctest.Wait()
		before := bubble.Goroutines()
		for range 5 {
			s.darken()
			go putAll(t, c, 30, 10_000, 10)
			time.Sleep(35 * time.Second)
			synctest.Wait()
			require.Equal(t, before, bubble.Goroutines())
			a := s.hosted().link.answers
			require.Zero(t, a.under)
			require.Zero(t, c.link.calls.credit.under)
		}
		require.Equal(t, 2, s.server.Stats().Lanes)
	})
}

// One direction stands still while the other lives.
func TestOneWayStall(t *testing.T) {
	for _, up := range []bool{true, false} {
		bubble.Test(t, func(t *testing.T) {
			s := newSite(t, nil)
			defer s.close()
			s.prep = func(n int, client, server *memConn) {
				if n == 0 {
					d := server.out
					if up {
						d = client.out
					}
					time.AfterFunc(time.Second, func() { d.do(func() { d.dark = true }) })
				}
			}
			c := s.client(&ClientOptions{Lanes: 1})
			defer c.Close()
			time.Sleep(2 * time.Second)
			start := time.Now()
			putAll(t, c, 10, 20_000, 4)
			require.LessOrEqual(t, time.Since(start), 30*time.Second)
			s.book(0).once(t, 10)
		})
	}
}

// A peer that says Ping and reads nothing holds no lane up for longer.
func TestPeerThatReadsNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		mine, theirs := memPair(32 << 10)
		go func() {
			p := newRaw(t, theirs)
			p.next()
			_ = p.send(0, &wire.Welcome{Version: wire.Version, MaxCalls: 8, Window: 1 << 20, MaxLanes: 1, PingEvery: 5000, DeadAfter: 20000})
			for p.send(0, &wire.Ping{}) == nil {
				time.Sleep(3 * time.Second)
			}
		}()
		dials := 0
		c, err := NewClient(t.Context(), &ClientOptions{GiveUp: time.Minute, Dial: dialOnce(mine, &dials)})
		require.NoError(t, err)
		defer c.Close()
		start := time.Now()
		go func() { _, _ = c.Call(t.Context(), put(1, 200_000)) }()
		<-mine.done()
		require.LessOrEqual(t, time.Since(start), 30*time.Second)
		<-c.Done()
		require.ErrorIs(t, c.Err(), ErrGaveUp)
		require.LessOrEqual(t, time.Since(start), 2*time.Minute)
	})
}

// RELIABILITY 1.2: a peer that slept for hours finds that its session has ended, and cannot go on with it.
func TestFrozenForHours(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(&ClientOptions{GiveUp: 10 * time.Hour})
		defer c.Close()
		putAll(t, c, 3, 100, 1)
		s.setDown(true)
		s.darken()
		time.Sleep(3 * time.Hour)
		require.Equal(t, 1, s.book(0).ended())
		s.setDown(false)
		_, err := c.Call(t.Context(), put(9, 100))
		require.ErrorIs(t, err, ErrLost)
		_, err = c.Call(t.Context(), put(9, 100))
		require.ErrorIs(t, err, ErrLost)
		require.Len(t, s.books, 1)
		s.book(0).once(t, 3)
	})
}

// A suspended machine's monotonic clock stands still: only the wall clock tells that the lanes are dead.
func TestSuspended(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		var asleep atomic.Int64
		c := s.client(&ClientOptions{wall: func() time.Time { return time.Now().Add(time.Duration(asleep.Load())) }})
		defer c.Close()
		time.Sleep(1500 * time.Millisecond)
		s.darken()
		asleep.Store(int64(2 * time.Hour))
		start := time.Now()
		putAll(t, c, 1, 100, 1)
		require.Less(t, time.Since(start), 3*time.Second)
	})
}

func TestServerRestart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		arrived := make(chan struct{})
		s.book(0).hold = func(ctx context.Context, _ wire.Message) error {
			close(arrived)
			<-ctx.Done()
			return ctx.Err()
		}
		go func() {
			<-arrived
			s.setDown(true)
			s.server.Close()
			s.mu.Lock()
			s.server = NewServer(s.filled(nil))
			s.mu.Unlock()
			time.Sleep(time.Minute)
			s.setDown(false)
		}()
		_, err := c.Call(t.Context(), put(1, 100))
		require.ErrorIs(t, err, ErrLost)
		<-c.Done()
		require.Len(t, s.books, 1, "a lost session is not begun again by its lanes")
	})
}

func TestGiveUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		putAll(t, c, 1, 100, 1)
		s.setDown(true)
		s.cutAll()
		start := time.Now()
		_, err := c.Call(t.Context(), put(2, 100))
		require.ErrorIs(t, err, ErrGaveUp)
		require.InDelta(t, 30, time.Since(start).Minutes(), 1)
		time.Sleep(time.Minute)
		require.Equal(t, 1, s.book(0).ended(), "the server has waited as long")
	})
}

func TestFirstLane(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		s.setDown(true)
		start := time.Now()
		_, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer")})
		require.ErrorContains(t, err, "the line is down")
		require.Zero(t, time.Since(start))
		go func() {
			time.Sleep(time.Minute)
			s.setDown(false)
		}()
		c, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer"), Patience: 2 * time.Minute})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		opts *ServerOptions
		code wire.Code
	}{
		{&ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
			return nil, &wire.Fail{Code: wire.CodeForbidden, Text: "not you"}
		}}, wire.CodeForbidden},
		{&ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
			return nil, errors.New("something else")
		}}, wire.CodeFailed},
		{&ServerOptions{Collect: func(context.Context, trust.Peer, *Client) (Handler, error) { return newLedger(), nil }}, wire.CodeUnsupported},
	} {
		bubble.Test(t, func(t *testing.T) {
			s := newSite(t, tc.opts)
			defer s.close()
			_, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer")})
			var refuse *wire.Refuse
			require.ErrorAs(t, err, &refuse)
			require.Equal(t, tc.code, refuse.Code)
			require.Zero(t, s.server.Stats().Sessions)
			require.Equal(t, int64(1), s.server.Stats().Refused)
		})
	}
}
