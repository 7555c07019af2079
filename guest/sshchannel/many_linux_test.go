package sshchannel

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"
)

// Many guests are served by one machine, a few at a time, over a line with 20 ms of delay each way: each of them a
// connection of its own to a real server. The figure is what one proxy does.
func TestManyGuests(t *testing.T) {
	guests, atOnce := 6, int64(3)
	if long() {
		guests, atOnce = 200, 16
	}
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	w := wayTo(h)
	w.addr = guesttest.Far(t, h.Addr, 20*time.Millisecond)
	w.opts.KnownHosts, w.opts.TrustFirst = nil, h.Dir+"/learned"
	limit := semaphore.NewWeighted(atOnce)
	var group sync.WaitGroup
	var slowest atomic.Int64
	start := time.Now()
	for range guests {
		group.Go(func() {
			ctx := within(t, 5*time.Minute)
			if limit.Acquire(ctx, 1) != nil {
				t.Error("it never had its turn")
				return
			}
			defer limit.Release(1)
			begun := time.Now()
			c, err := w.Open(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			d, err := guest.Deploy(ctx, c, programs, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Remove(ctx); err != nil {
				t.Error(err)
			}
			took := time.Since(begun).Milliseconds()
			for was := slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	t.Logf("%d guests, %d at a time: %v, %.1f guests per second; the slowest took %d ms", guests, atOnce, took,
		float64(guests)/took.Seconds(), slowest.Load())
	require.Empty(t, h.Left())
}
