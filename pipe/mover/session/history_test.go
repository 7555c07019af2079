package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Histories by chance: lines that cut, stall and go dark, limits that change, calls that are given up, handlers that
// take their time. Whatever happens, no call is carried out twice, and one that was answered was carried out.
func TestHistories(t *testing.T) {
	seeds := 40
	if long() {
		seeds = 2000
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { history(t, uint64(seed)) })
		})
	}
}

func history(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(6, seed))
	s := newSite(t, &ServerOptions{Window: 1 << (14 + r.IntN(6)), MaxCalls: 1 + r.IntN(40), MaxLanes: 1 + r.IntN(4)})
	defer s.close()
	s.room = 1 << (9 + r.IntN(8))
	s.prep = func(n int, client, server *memConn) {
		delay := time.Duration(r.IntN(3)) * time.Duration(r.IntN(2_000_000))
		client.out.delay, server.out.delay = delay, delay
		switch r.IntN(8) {
		case 0, 1:
			client.out.cut = r.Int64N(100_000)
		case 2, 3:
			server.out.cut = r.Int64N(3_000)
		case 4:
			client.out.darkAt = 1 + r.Int64N(100_000)
		case 5:
			server.out.darkAt = 1 + r.Int64N(3_000)
		}
	}
	c := s.client(&ClientOptions{Patience: time.Hour, Lanes: r.IntN(4)})
	defer c.Close()
	book := s.book(len(s.books) - 1)
	slow := rand.New(rand.NewPCG(7, seed))
	var mu sync.Mutex
	book.hold = func(ctx context.Context, _ wire.Message) error {
		mu.Lock()
		d := time.Duration(max(0, slow.IntN(40)-30)) * time.Second / 4
		mu.Unlock()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	stop := make(chan struct{})
	go func() { // limits go up and down
		r := rand.New(rand.NewPCG(8, seed))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+r.IntN(20)) * time.Second):
				s.hosted().regrant(wire.Credit{MaxCalls: uint32(1 + r.IntN(60)), Window: uint64(1) << (13 + r.IntN(8))})
			}
		}
	}()
	answered, givenUp := historyCalls(t, c, seed)
	close(stop)
	time.Sleep(time.Minute) // a call that was given up may be on its way
	synctest.Wait()
	book.mu.Lock()
	defer book.mu.Unlock()
	for off, times := range book.times {
		require.Equal(t, 1, times, "put %d", off)
	}
	for _, i := range answered {
		require.Equal(t, 1, book.times[i], "put %d was answered", i)
	}
	require.Positive(t, len(answered))
	require.Equal(t, 200, len(answered)+givenUp)
	require.Zero(t, s.hosted().link.answers.under)
	require.Zero(t, c.link.calls.credit.under)
}

// historyCalls makes 200 calls from ten goroutines, and gives some of them up.
func historyCalls(t *testing.T, c *Client, seed uint64) (answered []int64, givenUp int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 10 {
		r := rand.New(rand.NewPCG(uint64(100+w), seed))
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := t.Context(), func() {}
				if r.IntN(6) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(5000))*time.Millisecond)
				}
				off := w*20 + i
				answer, err := c.Call(ctx, put(off, r.IntN(9000)))
				mu.Lock()
				switch p, ok := answer.(*wire.Placed); {
				case err == nil && ok && p.Stored == int64(off):
					answered = append(answered, int64(off))
				case ctx.Err() != nil && errors.Is(err, ctx.Err()):
					givenUp++
				default:
					t.Errorf("put %d: %v %v", off, answer, err)
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	return answered, givenUp
}
