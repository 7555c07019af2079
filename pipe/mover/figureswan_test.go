//go:build linux

package mover_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/netlab"
)

// wan is the bad line of the bars, in each direction.
var wan = netlab.Line{Delay: 50 * time.Millisecond, Loss: 0.01, Rate: 20_000_000}

func TestFigureWAN(t *testing.T) {
	worse := wan
	worse.Duplicate, worse.Reorder = 0.01, 0.05
	for _, test := range []struct {
		name  string
		line  netlab.Line
		lanes int
	}{
		{"100 ms, 1 % loss, 20 Mbit/s", wan, 0},
		{"the same, 8 lanes from the start", wan, 8},
		{"the same, 1 % duplicates, 5 % out of order", worse, 0},
	} {
		t.Run(test.name, func(t *testing.T) { measureWAN(t, test.name, test.line, test.lanes) })
	}
}

func measureWAN(t *testing.T, name string, line netlab.Line, lanes int) {
	ctx := timed(t)
	l := lab(t, ctx)
	a, b := space(t, ctx, l, "a"), space(t, ctx, l, "b")
	road, err := l.Road(ctx, a, b, line, nil)
	require.NoError(t, err)
	p := newParty(t)
	image := noiseFile(t, 32<<20)

	plain := start(t, ctx, b, p.serve("tls", road.B+":0"))
	send := p.as("tls send", "site", plain.next().Listening)
	send.Streams, send.For = 8, 25*time.Second
	tls := start(t, ctx, a, send).next()
	plain.end()
	t.Logf("8 plain streams: %.2f MB/s, %.1f s; %+v", mb(tls.Bytes)/tls.Seconds, tls.Seconds, road.There.Counts())

	server := start(t, ctx, b, p.serve("mover", road.B+":0"))
	job := p.as("backup", "site", server.next().Listening)
	job.Image, job.Lanes = image, lanes
	before := road.There.Counts().Bytes
	ours := start(t, ctx, a, job).next()
	wire := road.There.Counts().Bytes - before
	rate, ceiling := mb(ours.Bytes)/ours.Seconds, mb(tls.Bytes)/tls.Seconds
	figure(t, "WAN "+name, "≥ 70 % of 8 plain TLS streams", "%.2f of %.2f MB/s: %.0f %%; on the wire %.1f %% more than the data",
		rate, ceiling, 100*rate/ceiling, 100*(float64(wire)/float64(ours.Bytes)-1))

	job.Role, job.Point = "restore", ours.Point
	back := start(t, ctx, a, job).next()
	server.end()
	figure(t, "WAN "+name+", restore", "identical", "identical, %.2f MB/s", mb(ours.Bytes)/back.Seconds)
	assert.Greater(t, rate/ceiling, 0.2)
}
