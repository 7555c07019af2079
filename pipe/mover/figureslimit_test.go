//go:build linux

package mover_test

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/bandwidth"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Two peers share a target's limit, one by eight connections and one by one: each gets half. The limit changes while
// they run. It is slow enough for a block to take longer than a lane's silence may.
func TestFigureLimit(t *testing.T) {
	ctx := figures(t)
	const total, size = 400_000, 4 << 20
	p := newParty(t)
	p.enrol(t, "other", trust.Append)
	shaper := bandwidth.New(bandwidth.Rules{Limits: bandwidth.Limits{Total: total}})
	server, closeRepo, err := newMoverLimited(ctx, filepath.Join(p.dir, "server"), slog.LevelError+1, shaper)
	require.NoError(t, err)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	defer func() {
		require.NoError(t, server.Shutdown(ctx))
		require.NoError(t, <-served)
		require.NoError(t, closeRepo())
	}()

	took := map[string]float64{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, lanes := range map[string]int{"site": 8, "other": 1} {
		wg.Go(func() {
			content := make([]byte, size)
			fillNoise(content, uint64(lanes))
			c, err := mover.Dial(ctx, l.Addr().String(), &mover.DialOptions{IdentityDir: p.client(name), ServerPin: p.pin, Lanes: lanes})
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			start := time.Now()
			_, _, err = backup(ctx, c, "vm", pipetest.Bytes(content))
			assert.NoError(t, err)
			assert.Equal(t, 1, c.Stats().Sessions, "a slow line is no dead one")
			mu.Lock()
			defer mu.Unlock()
			took[name] = time.Since(start).Seconds()
		})
	}
	wg.Wait()
	want := 2 * float64(size) / total
	figure(t, "limit of 400 kB/s in total, 4 MiB by 8 connections and 4 MiB by 1", fmt.Sprintf("%.1f s each", want),
		"%.1f s by 8, %.1f s by 1", took["site"], took["other"])
	for _, seconds := range took {
		assert.InEpsilon(t, want, seconds, 0.15)
	}

	shaper.Set(bandwidth.Rules{})
	c, err := mover.Dial(ctx, l.Addr().String(), &mover.DialOptions{IdentityDir: p.client("site"), ServerPin: p.pin})
	require.NoError(t, err)
	defer c.Close()
	content := make([]byte, size)
	fillNoise(content, 77)
	start := time.Now()
	_, _, err = backup(ctx, c, "vm", pipetest.Bytes(content))
	require.NoError(t, err)
	assert.Less(t, time.Since(start).Seconds(), want/2, "without the limit")
}
