package session

import (
	"context"
	"errors"
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

// More lanes are opened where the line is long and slow, at most two where it is short, none where it is not needed.
func TestLanesAsNeeded(t *testing.T) {
	for _, tc := range []struct {
		delay time.Duration // of each write
		lanes int
	}{{10 * time.Millisecond, 8}, {600 * time.Microsecond, 2}, {0, 1}} {
		bubble.Test(t, func(t *testing.T) {
			s := newSite(t, nil)
			defer s.close()
			s.prep = func(_ int, client, server *memConn) { client.out.delay, server.out.delay = tc.delay, tc.delay }
			c := s.client(nil)
			defer c.Close()
			putAll(t, c, 300, 100_000, 60)
			require.Equal(t, tc.lanes, c.Stats().Lanes)
			require.Zero(t, c.Stats().Resent)
			time.Sleep(15 * time.Minute)
			require.Equal(t, 1, c.Stats().Lanes, "what is not needed is closed")
			putAll(t, c, 1, 10, 1)
		})
	}
}

// A second lane that cannot be had takes nothing from the first.
func TestSecondLaneHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		dials := 0
		c := s.client(&ClientOptions{Lanes: 2, Dial: func(ctx context.Context) (net.Conn, error) {
			if dials++; dials > 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return s.dial("peer")(ctx)
		}})
		defer c.Close()
		for range 30 {
			putAll(t, c, 1, 100, 1)
			time.Sleep(10 * time.Second)
			require.Equal(t, 1, c.Stats().Lanes)
		}
		require.Greater(t, dials, 4)
		require.Len(t, s.conns, 1)
	})
}

// What comes, also asks for more lanes.
func TestLanesForReading(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		s.prep = func(_ int, client, server *memConn) {
			client.out.delay, server.out.delay = 10*time.Millisecond, 10*time.Millisecond
		}
		c := s.client(nil)
		defer c.Close()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 8 {
					_, err := c.Call(t.Context(), &wire.ReadImage{Len: 1 << 20})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, 8, c.Stats().Lanes)
	})
}

func TestCredit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var heard atomic.Int64
		s := newSite(t, &ServerOptions{MaxCalls: 10, Window: 1 << 20})
		defer s.close()
		c := s.client(&ClientOptions{Push: func(m wire.Message) {
			if _, ok := m.(*wire.Credit); ok {
				heard.Add(1)
			}
		}})
		defer c.Close()
		settle := func() { // frames wait for each other where there are many
			time.Sleep(4 * lingerTime)
			synctest.Wait()
		}
		goOn := make(chan struct{})
		s.book(0).hold = func(context.Context, wire.Message) error {
			<-goOn
			return nil
		}
		go putAll(t, c, 100, 1000, 50)
		settle()
		require.Equal(t, 10, s.hosted().link.answers.running)
		s.hosted().regrant(wire.Credit{MaxCalls: 4, Window: 1 << 20})
		settle()
		require.Equal(t, uint32(4), c.Limits().MaxCalls)
		for range 20 {
			goOn <- struct{}{}
			settle()
		}
		require.Equal(t, 4, s.hosted().link.answers.running)
		s.hosted().regrant(wire.Credit{MaxCalls: 20, Window: 5000})
		goOn <- struct{}{}
		settle()
		require.Equal(t, 3, s.hosted().link.answers.running, "the window is the narrower now, and a call that waits is not hurried")
		close(goOn)
		settle()
		require.Positive(t, heard.Load())
		s.book(0).once(t, 100)
	})
}

// With many sessions each has less of the memory.
func TestShares(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{Memory: 16 << 20, Window: 8 << 20})
		defer s.close()
		var all []*Client
		for range 9 {
			all = append(all, s.client(nil))
		}
		synctest.Wait()
		for _, c := range all {
			require.Equal(t, uint64(1<<20), c.Limits().Window)
		}
		for _, c := range all[1:] {
			c.Close()
		}
		synctest.Wait()
		require.Equal(t, uint64(8<<20), all[0].Limits().Window)
		all[0].Close()
	})
}

func TestBounds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxSessions: 3, MaxPerPeer: 2})
		defer s.close()
		a, b := s.client(nil), s.client(nil)
		_, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer")})
		require.ErrorContains(t, err, "2 sessions")
		o := s.client(&ClientOptions{Dial: s.dial("other")})
		_, err = NewClient(t.Context(), &ClientOptions{Dial: s.dial("third")})
		var refuse *wire.Refuse
		require.ErrorAs(t, err, &refuse)
		require.Equal(t, wire.CodeBusy, refuse.Code)
		go func() {
			time.Sleep(time.Minute)
			a.Close()
		}()
		n, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("third"), Patience: time.Hour})
		require.NoError(t, err, "room that is made is taken")
		for _, c := range []*Client{b, o, n} {
			c.Close()
		}
	})
}

func TestRevoke(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c, o := s.client(nil), s.client(&ClientOptions{Dial: s.dial("other")})
		defer o.Close()
		s.book(0).hold = func(ctx context.Context, _ wire.Message) error {
			<-ctx.Done()
			return ctx.Err()
		}
		go func() {
			synctest.Wait()
			s.server.Revoke(trust.Peer{Name: "peer"})
		}()
		start := time.Now()
		_, err := c.Call(t.Context(), put(1, 10))
		var refuse *wire.Refuse
		require.ErrorAs(t, err, &refuse)
		require.Equal(t, wire.CodeForbidden, refuse.Code)
		require.Less(t, time.Since(start), 5*time.Second)
		<-c.Done()
		putAll(t, o, 3, 10, 1)
		c.Close()
	})
}

// Calls under way return, no other is begun, and the clients come back to whoever takes the place.
func TestDrain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		arrived := make(chan struct{}, 100)
		s.book(0).hold = func(context.Context, wire.Message) error {
			arrived <- struct{}{}
			time.Sleep(5 * time.Second)
			return nil
		}
		first := make(chan error, 1)
		go func() {
			_, err := c.Call(t.Context(), put(1, 10))
			first <- err
		}()
		<-arrived
		drained := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			drained <- s.server.Drain(ctx)
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := c.Call(t.Context(), put(2, 10))
			second <- err
		}()
		_, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer")})
		require.ErrorContains(t, err, "about to end")
		require.NoError(t, <-drained)
		require.NoError(t, <-first)
		s.book(0).once(t, 1)
		s.setDown(true)
		s.server.Close()
		s.mu.Lock()
		s.server = NewServer(s.filled(nil))
		s.mu.Unlock()
		s.setDown(false)
		require.ErrorIs(t, <-second, ErrLost)
	})
}

func TestDrainRunsOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		s.book(0).hold = func(ctx context.Context, _ wire.Message) error {
			<-ctx.Done()
			return ctx.Err()
		}
		go func() { _, _ = c.Call(t.Context(), put(1, 10)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, s.server.Drain(ctx), context.DeadlineExceeded)
	})
}

// Handlers whose calls do not end are closed all the same.
func TestStubbornCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		s.book(0).hold = func(context.Context, wire.Message) error {
			time.Sleep(time.Hour)
			return errors.New("too late")
		}
		go func() { _, _ = c.Call(t.Context(), put(1, 10)) }()
		synctest.Wait()
		c.Close()
		synctest.Wait()
		require.Zero(t, s.book(0).ended())
		time.Sleep(closeGrace)
		synctest.Wait()
		require.Equal(t, 1, s.book(0).ended())
		time.Sleep(time.Hour)
	})
}

// News of what is durable arrives, whichever lane it was said on.
func TestDurable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var push func(wire.Message)
		s := newSite(t, &ServerOptions{Open: func(_ context.Context, _ trust.Peer, p func(wire.Message)) (Handler, error) {
			push = p
			return newLedger(), nil
		}})
		defer s.close()
		var below atomic.Uint64
		c := s.client(&ClientOptions{Push: func(m wire.Message) {
			if d, ok := m.(*wire.Durable); ok {
				below.Store(max(below.Load(), d.Below))
			}
		}})
		defer c.Close()
		push(&wire.Durable{Writer: 3, Below: 5})
		synctest.Wait()
		require.Equal(t, uint64(5), below.Load())
		s.darken()
		push(&wire.Durable{Writer: 3, Below: 9})
		push(&wire.Durable{Writer: 3, Below: 7})
		time.Sleep(30 * time.Second)
		require.Equal(t, uint64(9), below.Load(), "what went into a black hole is said again")
	})
}

// A target collects: it opens the lanes, gives its order by a call, and answers the source's calls.
func TestCollector(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var below atomic.Uint64
		s := newSite(t, &ServerOptions{Collect: func(_ context.Context, peer trust.Peer, to *Client) (Handler, error) {
			to.Notify(func(m wire.Message) {
				if d, ok := m.(*wire.Durable); ok {
					below.Store(d.Below)
				}
			})
			return &source{to: to, t: t}, nil
		}})
		defer s.close()
		target := newLedger()
		s.prep = func(n int, client, server *memConn) {
			if n < 3 {
				server.out.cut = int64(20_000 * (n + 1))
			}
		}
		c := s.client(&ClientOptions{Role: wire.Collector, Handler: target, Serve: wire.Credit{MaxCalls: 8, Window: 32 << 10}})
		answer, err := c.Call(t.Context(), &wire.Collect{VM: "web"})
		require.NoError(t, err)
		require.Equal(t, []byte("web is there"), answer.(*wire.Collected).Result)
		target.once(t, 50)
		c.Push(&wire.Durable{Writer: 1, Below: 51})
		synctest.Wait()
		require.Equal(t, uint64(51), below.Load())
		require.NoError(t, c.Close())
		require.Equal(t, 1, target.ended())
		synctest.Wait()
		require.Zero(t, s.server.Stats().Sessions)
	})
}

// source brings fifty blocks when it is told to.
type source struct {
	to *Client
	t  *testing.T
}

func (s *source) Handle(ctx context.Context, _ uint64, req wire.Message) (wire.Message, error) {
	putAll(s.t, s.to, 50, 3000, 8)
	return &wire.Collected{Result: []byte(req.(*wire.Collect).VM + " is there")}, nil
}

func (*source) Close() error { return nil }

// A session that is opened while its first lane dies is not kept for ever.
func TestAbandonedOpen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		book := newLedger()
		s := newSite(t, &ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
			time.Sleep(time.Minute)
			return book, nil
		}})
		defer s.close()
		_, err := NewClient(t.Context(), &ClientOptions{Dial: s.dial("peer")})
		require.Error(t, err)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, s.server.Stats().Lingering)
		time.Sleep(30 * time.Minute)
		require.Equal(t, 1, book.ended())
		require.Zero(t, s.server.Stats().Sessions)
	})
}
