//go:build linux

package kvmtest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/qga"
)

// The partitions follow one another within the disk, on whole mebibytes.
func TestPartitionTable(t *testing.T) {
	p := partitionTable()
	require.Len(t, p, 512)
	require.Equal(t, []byte{0x55, 0xaa}, p[510:])
	at := uint64(1 << 20)
	for i, length := range []uint64{SwapLen, RootLen, RangeLen} {
		entry := p[446+16*i:]
		require.Equal(t, at, 512*uint64(binary.LittleEndian.Uint32(entry[8:])))
		require.Equal(t, length, 512*uint64(binary.LittleEndian.Uint32(entry[12:])))
		at += length
	}
	require.Equal(t, uint64(systemSize), at)
}

// The server says of its own what a test relies on: what a freeze must have kept, that its ledgers are whole, and that
// damage in one is found. A ledger that is damaged on purpose fails its check.
func TestServer(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("the tests of package kvm boot it; alone it needs HIKAE_TEST_TIER=long")
	}
	s, err := BuildServer(t.Context())
	var missing *UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "kvmtest") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	disks, err := s.Disks(t.Context(), dir)
	require.NoError(t, err)
	all := []string{Journal, SQLite, XFSJournal, Postgres}
	start := func(opts *ServerOptions) *Guest {
		begun := time.Now()
		g, err := s.Start(t.Context(), dir, disks, opts)
		require.NoError(t, err)
		t.Cleanup(g.Kill)
		t.Logf("ready after %v", time.Since(begun))
		require.NotContains(t, g.Console(), "FX ")
		return g
	}
	fx := func(g *Guest, args ...string) string {
		out, err := g.Fx(t.Context(), args...)
		require.NoError(t, err, g.Console())
		return out
	}

	g := start(&ServerOptions{Ledgers: all})
	_, err = g.Fx(t.Context(), "moment")
	require.ErrorContains(t, err, "hook", "there was no freeze")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := 0; n < 3; {
		require.NoError(t, ctx.Err(), g.Console())
		out, _ := g.Fx(ctx, "written", Postgres)
		n, _ = strconv.Atoi(strings.TrimSpace(out))
	}
	freezeFor(t, g, 500*time.Millisecond)
	var m struct {
		Frozen map[string]int64
		Bounds map[string][2]int64
	}
	require.NoError(t, json.Unmarshal([]byte(fx(g, "moment")), &m))
	for _, name := range []string{"root", "data"} {
		require.GreaterOrEqual(t, m.Frozen[name], int64(500_000), "microseconds")
	}
	for _, name := range all {
		require.Positive(t, m.Bounds[name][0], name)
		require.LessOrEqual(t, m.Bounds[name][0], m.Bounds[name][1], name)
	}
	fx(g, "swap", "4194304")
	g.Kill()

	g = start(&ServerOptions{Ledgers: all, Quiet: true}) // after a power cut
	fx(g, "fill", "/data/journal", "100", "8", "1")
	var found map[string]struct {
		Records int64
		Error   string
	}
	require.NoError(t, json.Unmarshal([]byte(fx(g, append([]string{"check"}, all...)...)), &found))
	require.Contains(t, found[XFSJournal].Error, "record 2 is")
	for _, name := range []string{Journal, SQLite, Postgres} {
		require.Empty(t, found[name].Error, name)
		require.GreaterOrEqual(t, found[name].Records, m.Bounds[name][0], name)
	}
}

func freezeFor(t *testing.T, g *Guest, d time.Duration) {
	t.Helper()
	c := qga.New(g.Agent(), nil)
	defer c.Close()
	n, err := c.Freeze(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, n, "file systems")
	time.Sleep(d)
	require.NoError(t, c.Thaw(t.Context()))
}
