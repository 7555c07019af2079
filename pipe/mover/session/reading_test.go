package session

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// slowSite is one whose lanes carry 16 KiB in each 100 ms, either way: little of a megabyte comes in an epoch.
func slowSite(t *testing.T) *site {
	s := newSite(t, nil)
	s.prep = func(_ int, client, server *memConn) {
		client.out.delay, server.out.delay = 100*time.Millisecond, 100*time.Millisecond
	}
	return s
}

// readAll makes n calls that read, some at once.
func readAll(t *testing.T, c *Client, n, size, atOnce int) {
	var wg sync.WaitGroup
	var made atomic.Int64
	for range atOnce {
		wg.Go(func() {
			for made.Add(1) <= int64(n) {
				if _, err := c.Call(t.Context(), &wire.ReadImage{Len: uint32(size)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A session that waits for content on a long line opens lanes however slow the line is, and as it opens them they get
// their part of what was asked for before.
func TestReadingOnASlowLine(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := slowSite(t)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		putAll(t, c, 1, 10, 1)
		start := time.Now()
		go func() {
			time.Sleep(6 * time.Second)
			require.Equal(t, 8, c.Stats().Lanes, "within seconds")
		}()
		readAll(t, c, 64, 256<<10, 64)
		// 16 MiB take 102 s on one lane, and 13 s on eight.
		require.Less(t, time.Since(start), 20*time.Second)
	})
}

// What reads does not go to a lane before the lane can do with it, and nothing else waits behind it.
func TestReadsAreHeldBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := slowSite(t)
		defer s.close()
		c := s.client(&ClientOptions{Lanes: 1})
		defer c.Close()
		putAll(t, c, 1, 10, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() { _, _ = c.Call(ctx, &wire.ReadImage{Len: 256 << 10}) })
		}
		time.Sleep(3 * time.Second)
		c.link.mu.Lock()
		expects, queue := c.link.lanes[0].expects, len(c.link.calls.queue)
		c.link.mu.Unlock()
		require.Equal(t, int64(leastRoom), expects)
		require.Greater(t, queue, 35)
		start := time.Now()
		_, err := c.Call(t.Context(), put(7, 10))
		require.NoError(t, err)
		require.Less(t, time.Since(start), 5*time.Second, "behind two answers at most, not behind forty")
		cancel()
		wg.Wait()
	})
}

// A lane that is fast gets room, so that a line that is long and wide is filled.
func TestRoomGrows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		s.prep = func(_ int, client, server *memConn) { client.out.delay = 20 * time.Millisecond }
		c := s.client(&ClientOptions{Lanes: 1})
		defer c.Close()
		putAll(t, c, 1, 10, 1)
		require.GreaterOrEqual(t, c.Stats().RTT, farLine)
		readAll(t, c, 400, 256<<10, 60)
		c.link.mu.Lock()
		room := c.link.lanes[0].room
		c.link.mu.Unlock()
		require.Greater(t, room, int64(8<<20))
	})
}

// An order to collect lasts as long as a backup: what reads does not wait for its answer.
func TestCollectTakesNoRoom(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := slowSite(t)
		defer s.close()
		c := s.client(&ClientOptions{Lanes: 1})
		defer c.Close()
		putAll(t, c, 1, 10, 1)
		s.book(0).hold = func(ctx context.Context, req wire.Message) error {
			if _, ok := req.(*wire.Collect); ok {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Call(ctx, &wire.Collect{}) })
		time.Sleep(time.Second)
		readAll(t, c, 3, 64<<10, 3)
		cancel()
		wg.Wait()
	})
}

// packets counts what is written.
type packets struct {
	net.Conn
	writes *atomic.Int64
}

func (p packets) Write(b []byte) (int, error) {
	p.writes.Add(1)
	return p.Conn.Write(b)
}

// Small frames of many calls share packets, both ways; a call alone waits for nothing.
func TestSmallFramesShareWrites(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		var there, back atomic.Int64
		dial := func(context.Context) (net.Conn, error) {
			client, server := memPair(64 << 10)
			s.lanes.Go(func() { _ = s.server.ServeConn(s.ctx, packets{server, &back}, trust.Peer{Name: "peer"}) })
			return packets{client, &there}, nil
		}
		c := s.client(&ClientOptions{Dial: dial, Lanes: 1})
		defer c.Close()
		synctest.Wait()
		before := time.Now()
		putAll(t, c, 200, 0, 1)
		require.Zero(t, time.Since(before), "one at a time")
		there.Store(0)
		back.Store(0)
		s.book(0).hold = func(context.Context, wire.Message) error { time.Sleep(50 * time.Microsecond); return nil }
		putAll(t, c, 3200, 0, 64)
		require.Less(t, there.Load(), int64(3200/10))
		require.Less(t, back.Load(), int64(3200/10))
		require.Less(t, time.Since(before), 3200/64*4*lingerTime)
	})
}

// Giving up takes no longer than it may, also where a connection, or the answer to a Hello, never comes.
func TestGivingUpInTime(t *testing.T) {
	var cut time.Time
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"none at the last moment": func(ctx context.Context) (net.Conn, error) {
			if time.Since(cut) >= 950*time.Millisecond {
				<-ctx.Done()
			}
			return nil, net.ErrClosed
		},
		"no connection": func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"no welcome":    func(context.Context) (net.Conn, error) { c, _ := memPair(64 << 10); return c, nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newSite(t, nil)
				defer s.close()
				first := true
				c := s.client(&ClientOptions{GiveUp: time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
					if first {
						first = false
						return s.dial("peer")(ctx)
					}
					return dial(ctx)
				}})
				defer c.Close()
				putAll(t, c, 1, 10, 1)
				cut = time.Now()
				s.cutAll()
				<-c.Done()
				require.ErrorIs(t, c.Err(), ErrGaveUp)
				require.LessOrEqual(t, time.Since(cut), 1500*time.Millisecond)
			})
		})
	}
}

// An attempt at one more lane that began while there were others ends in time when they have gone.
func TestGivingUpOnAnExtraLane(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		dials := 0
		c := s.client(&ClientOptions{GiveUp: time.Second, Lanes: 2, Dial: func(ctx context.Context) (net.Conn, error) {
			if dials++; dials == 1 {
				return s.dial("peer")(ctx)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		defer c.Close()
		putAll(t, c, 1, 10, 1)
		time.Sleep(3 * time.Second)
		require.Equal(t, 1, c.Stats().Lanes)
		s.cutAll()
		start := time.Now()
		<-c.Done()
		require.ErrorIs(t, c.Err(), ErrGaveUp)
		require.LessOrEqual(t, time.Since(start), 1500*time.Millisecond)
		require.Equal(t, 3, dials)
	})
}

// A name that was given again is another machine's: what it had before ends, what it has now goes on.
func TestRevokeIsOfOneEnrolment(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		dial := func(serial uint64) func(context.Context) (net.Conn, error) {
			return func(context.Context) (net.Conn, error) {
				client, server := memPair(s.room)
				s.lanes.Go(func() { _ = s.server.ServeConn(s.ctx, server, trust.Peer{Name: "peer", Serial: serial}) })
				return client, nil
			}
		}
		old, now := s.client(&ClientOptions{Dial: dial(1)}), s.client(&ClientOptions{Dial: dial(2)})
		defer old.Close()
		defer now.Close()
		s.server.Revoke(trust.Peer{Name: "peer", Serial: 1})
		<-old.Done()
		putAll(t, now, 3, 10, 1)
		require.NoError(t, now.Err())
	})
}
