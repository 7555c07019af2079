//go:build linux

package mover_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/netlab"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// The line goes silent both ways at 20 points of a backup, from the handshake to the end. Both sides are to find out
// within 30 s and to free what they held.
func TestFigureBlackHole(t *testing.T) {
	ctx := figures(t)
	l := lab(t, ctx)
	const holes, size = 20, 8 << 20
	image := noiseFile(t, size)
	var mu sync.Mutex
	var noticed, over []float64
	var leftovers []string
	var wg sync.WaitGroup
	for i := range holes {
		a, b := space(t, ctx, l, fmt.Sprintf("a%d", i)), space(t, ctx, l, fmt.Sprintf("b%d", i))
		road, err := l.Road(ctx, a, b, netlab.Line{Delay: 5 * time.Millisecond, Rate: 8_000_000}, nil)
		require.NoError(t, err)
		p := newParty(t)
		server := start(t, ctx, b, p.serve("mover", road.B+":0"))
		listening := server.next().Listening
		base := server.ask()
		job := p.as("hole", "site", listening)
		job.Image, job.GiveUp = image, time.Second
		c := start(t, ctx, a, job)
		c.next()
		wg.Go(func() {
			at := int64(i) * (size + 100_000) / holes // of what the source sends; the first at its first packet
			for ; ctx.Err() == nil && road.There.Counts().Bytes < at; time.Sleep(time.Millisecond) {
			}
			road.Cut()
			cut := time.Now()
			seen := c.next()
			left := c.next()
			time.Sleep(time.Until(cut.Add(35 * time.Second)))
			after := server.ask()
			mu.Lock()
			defer mu.Unlock()
			noticed = append(noticed, time.Unix(0, seen.Bytes).Sub(cut).Seconds())
			over = append(over, time.Unix(0, seen.Resent).Sub(cut).Seconds())
			if left.Goroutines > 0 || left.Files > 1 {
				leftovers = append(leftovers, fmt.Sprintf("phase %d, source: %d goroutines, %d files", i, left.Goroutines, left.Files))
			}
			// The target keeps the session for whoever comes back: its goroutines may be a few, its connections not.
			if after.Files > base.Files+8 || after.Goroutines > base.Goroutines+40 {
				leftovers = append(leftovers, fmt.Sprintf("phase %d, target: %d goroutines and %d files more", i, after.Goroutines-base.Goroutines, after.Files-base.Files))
			}
		})
	}
	wg.Wait()
	slices.Sort(noticed)
	require.Len(t, noticed, holes)
	figure(t, "black hole at 20 phases", "found ≤ 30 s, all freed ≤ 5 s after",
		"found after %.1f s in the median, %.1f at most; given up, with GiveUp 1 s, after %.1f at most; left over: %v",
		noticed[holes/2], noticed[holes-1], slices.Max(over), leftovers)
	assert.Less(t, noticed[holes-1], 45.0)
}

// A thousand peers at once, each with a session and a point of its own.
func TestFigureThousandSessions(t *testing.T) {
	ctx := timed(t)
	const sessions = 1000
	p := newParty(t)
	for i := range sessions {
		p.enrol(t, fmt.Sprint(i), trust.Append)
	}
	server := start(t, ctx, nil, p.serve("mover", "127.0.0.1:0"))
	job := p.as("many", "", server.next().Listening)
	job.Count, job.Bytes = sessions, 1<<20
	clients := start(t, ctx, nil, job).next()
	after := server.ask()
	server.end()
	slices.Sort(clients.Times)
	median, slowest := clients.Times[sessions/2], clients.Times[sessions-1]
	figure(t, "1,000 sessions at once, 1 MiB each", "all complete, RSS ≤ 1.5 GiB, slowest ≤ 3 × median",
		"all in %.1f s; target's RSS %.0f MiB at the peak (the clients' %.0f); slowest %.1f s, median %.1f: %.2f ×", clients.Seconds,
		float64(after.RSS)/(1<<20), float64(clients.RSS)/(1<<20), slowest, median, slowest/median)
	assert.Less(t, after.RSS, int64(4<<30))
	assert.Less(t, slowest/median, 10.0)
}
