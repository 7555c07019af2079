//go:build linux

package mover_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mb is bytes in millions.
func mb(n int64) float64 { return float64(n) / 1e6 }

// One session of new data that does not compress, against plain TLS on the same cable.
func TestFigureLANAtAGigabit(t *testing.T) {
	ctx := timed(t)
	l := lab(t, ctx)
	a, b := space(t, ctx, l, "a"), space(t, ctx, l, "b")
	cable, err := l.Cable(ctx, a, b, 1_000_000_000)
	require.NoError(t, err)
	p := newParty(t)
	image := noiseFile(t, 1<<30)

	plain := start(t, ctx, b, p.serve("tls", cable.B+":0"))
	send := p.as("tls send", "site", plain.next().Listening)
	send.Streams, send.Bytes = 1, 1<<30
	tls := start(t, ctx, a, send).next()
	plain.end()

	server := start(t, ctx, b, p.serve("mover", cable.B+":0"))
	job := p.as("backup", "site", server.next().Listening)
	job.Image = image
	ours := start(t, ctx, a, job).next()
	server.end()

	rate, ceiling := mb(ours.Bytes)/ours.Seconds, mb(tls.Bytes)/tls.Seconds
	figure(t, "LAN at 1 Gbit/s, new data", "≥ 95 % of plain TLS", "%.1f of %.1f MB/s: %.1f %%", rate, ceiling, 100*rate/ceiling)
	assert.Greater(t, rate/ceiling, 0.3)
}

// What both movers cost for a gigabyte, against plain TLS and a copy on one machine, both ends on the same processors.
func TestFigureProcessorTime(t *testing.T) {
	ctx := timed(t)
	l := lab(t, ctx)
	a, b := space(t, ctx, l, "a"), space(t, ctx, l, "b")
	cable, err := l.Cable(ctx, a, b, 0)
	require.NoError(t, err)
	image := noiseFile(t, 1<<30)
	p := newParty(t)

	plain := start(t, ctx, b, p.serve("tls", cable.B+":0"))
	send := p.as("tls send", "site", plain.next().Listening)
	send.Streams, send.Bytes = 1, 1<<30
	tls := start(t, ctx, a, send).next()
	tlsCPU := tls.CPU + plain.ask().CPU
	plain.end()

	alone := p.as("local", "site", "")
	alone.Dir, alone.Image = t.TempDir(), image
	local := start(t, ctx, nil, alone).next()

	server := start(t, ctx, b, p.serve("mover", cable.B+":0"))
	job := p.as("backup", "site", server.next().Listening)
	job.Image = image
	before := server.ask().CPU
	ours := start(t, ctx, a, job).next()
	both := ours.CPU + server.ask().CPU - before
	server.end()

	gb := float64(ours.Bytes) / 1e9
	figure(t, "unshaped, CPU of both movers", "≤ 2.5 × plain TLS + a local copy",
		"%.2f s/GB; TLS %.2f, local %.2f; so %.2f × TLS + local; %.0f MB/s against %.0f and %.0f (source %.2f, target %.2f s)", both/gb,
		tlsCPU/gb, local.CPU/gb, (both-local.CPU)/tlsCPU, mb(ours.Bytes)/ours.Seconds, mb(tls.Bytes)/tls.Seconds,
		mb(ours.Bytes)/local.Seconds, ours.CPU, both-ours.CPU)
	assert.Less(t, both, 10*tlsCPU+3*local.CPU)
}

// A second backup of the same data: how fast it is found to be known, and what goes over the wire.
func TestFigureLANKnownData(t *testing.T) {
	ctx := timed(t)
	l := lab(t, ctx)
	a, b := space(t, ctx, l, "a"), space(t, ctx, l, "b")
	cable, err := l.Cable(ctx, a, b, 0)
	require.NoError(t, err)
	p := newParty(t)
	image := noiseFile(t, 2<<30)
	server := start(t, ctx, b, p.serve("mover", cable.B+":0"))
	job := p.as("backup", "site", server.next().Listening)
	job.Image = image
	start(t, ctx, a, job).next()

	a1, b1, err := cable.Sent()
	require.NoError(t, err)
	before := server.ask().CPU
	again := start(t, ctx, a, job).next()
	cpu := again.CPU + server.ask().CPU - before
	a2, b2, err := cable.Sent()
	require.NoError(t, err)
	wire := a2.Bytes - a1.Bytes + b2.Bytes - b1.Bytes
	packets := a2.Packets - a1.Packets + b2.Packets - b1.Packets
	server.end()

	share := float64(wire) / float64(again.Bytes)
	figure(t, "LAN, known data: rate", "≥ 1 GB/s", "%.0f MB/s; CPU %.2f s/GB", mb(again.Bytes)/again.Seconds, cpu/float64(again.Bytes)*1e9)
	const headers = 14 + 20 + 32 // of Ethernet, IP, and TCP with time stamps
	figure(t, "LAN, known data: on the wire, both ways", "≤ 0.1 %", "%.4f %% with all headers and acknowledgements, %.4f %% of TLS; %d packets",
		100*share, 100*float64(wire-headers*packets)/float64(again.Bytes), packets)
	assert.Less(t, share, 0.01)
}
