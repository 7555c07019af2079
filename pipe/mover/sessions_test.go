package mover

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Bar 24: many authenticated sessions at once, each with a backup of its own: all come to their end, in their order,
// and nobody waits for ever. 1,000 in the long tier, 40 otherwise; both sides are in this process.
func TestManySessions(t *testing.T) {
	t.Parallel()
	n := 40
	if longTier() {
		n = 1000
	}
	y := newYard(t, nil)
	type peer struct {
		id   *trust.Identity
		took time.Duration
		err  error
	}
	peers := make([]peer, n)
	for i := range peers {
		peers[i].id = y.enrol(fmt.Sprint("p", i), trust.Append)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range peers {
		p := &peers[i]
		dir := t.TempDir()
		wg.Go(func() {
			<-start
			since := time.Now()
			defer func() { p.took = time.Since(since) }()
			c, err := dialAgain(ctx, y, p.id, dir)
			if err != nil {
				p.err = err
				return
			}
			defer c.Close()
			_, p.err = backup(ctx, c, "vm", pipetest.Bytes(chacha(uint64(i), 16*testBlock)), nil)
		})
	}
	close(start)
	wg.Wait()
	var took []time.Duration
	for i, p := range peers {
		require.NoError(t, p.err, "peer %d", i)
		took = append(took, p.took)
	}
	slices.Sort(took)
	t.Logf("%d sessions: median %v, slowest %v", n, took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
	require.Less(t, took[n-1], 3*took[n/2]+time.Second)
	count := 0
	for _, err := range y.opts.Backend.Points(t.Context(), "") {
		require.NoError(t, err)
		count++
	}
	require.Equal(t, n, count)
	require.Eventually(t, func() bool { return y.server.Stats().Sessions == 0 && y.seen.sessions.Load() == 0 }, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 0, y.server.host.admission.writing.Load())
}

// dialAgain connects, also where there is no room for the handshake yet.
func dialAgain(ctx context.Context, y *yard, id *trust.Identity, cache string) (*Client, error) {
	for {
		c, err := Dial(ctx, y.address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), CacheDir: cache})
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
