//go:build linux

package mover_test

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
)

// relay passes connections on and resets all of them each time so many bytes have gone to the server.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex
	cuts  []int64 // offsets that are left, ascending
	up    int64
	conns map[*net.TCPConn]bool
	wg    sync.WaitGroup
}

func newRelay(t *testing.T, to string, cuts []int64) *relay {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	slices.Sort(cuts)
	r := &relay{Listener: l, to: to, cuts: cuts, conns: map[*net.TCPConn]bool{}}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.carry(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { r.close() })
	return r
}

func (r *relay) close() {
	r.Close()
	r.mu.Lock()
	r.reset()
	r.mu.Unlock()
	r.wg.Wait()
}

// reset kills all connections by RST.
func (r *relay) reset() {
	for c := range r.conns {
		c.SetLinger(0)
		c.Close()
		delete(r.conns, c)
	}
}

func (r *relay) carry(from *net.TCPConn) {
	conn, err := net.Dial("tcp4", r.to)
	if err != nil {
		from.Close()
		return
	}
	to := conn.(*net.TCPConn)
	r.mu.Lock()
	r.conns[from], r.conns[to] = true, true
	r.mu.Unlock()
	r.wg.Go(func() { r.pump(from, to, false) })
	r.pump(to, from, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range []*net.TCPConn{from, to} {
		c.Close()
		delete(r.conns, c)
	}
}

// pump copies from one to the other. On the way up it stops at the byte of the next cut.
func (r *relay) pump(to, from *net.TCPConn, up bool) {
	p := make([]byte, 64<<10)
	for {
		n, err := from.Read(p)
		if err != nil {
			to.CloseWrite()
			return
		}
		cut := false
		if up {
			n, cut = r.count(n)
		}
		if _, err := to.Write(p[:n]); err != nil {
			return
		}
		if cut {
			r.mu.Lock()
			r.reset()
			r.mu.Unlock()
			return
		}
	}
}

func (r *relay) count(n int) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cut := len(r.cuts) > 0 && r.up+int64(n) >= r.cuts[0]
	if cut {
		n = max(int(r.cuts[0]-r.up), 0)
		r.cuts = r.cuts[1:]
	}
	r.up += int64(n)
	return n, cut
}

// cutRun backs up an image through a relay and compares what arrived.
func cutRun(t *testing.T, lanes int, content []byte, cuts []int64) (up int64, left int, took time.Duration, stats mover.Stats) {
	ctx := figures(t)
	p := newParty(t)
	server, closeRepo, err := newMover(ctx, filepath.Join(p.dir, "server"), slog.LevelError+1)
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
	r := newRelay(t, l.Addr().String(), cuts)
	defer r.close()
	c, err := mover.Dial(ctx, r.Addr().String(), &mover.DialOptions{IdentityDir: p.client("site"), ServerPin: trust.Pin(p.pin), Lanes: lanes})
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	point, _, err := backup(ctx, c, "vm", pipetest.Bytes(content))
	require.NoError(t, err)
	took = time.Since(began)
	r.mu.Lock()
	up, left = r.up, len(r.cuts)
	r.cuts = nil
	r.mu.Unlock()
	far, err := c.Open(ctx, point, "disk0")
	require.NoError(t, err)
	require.NoError(t, pipetest.CheckImage(ctx, far, pipetest.Bytes(content)))
	return up, left, took, c.Stats()
}

// The line is cut at 200 random bytes of what goes to the target: the point is the same, and little is sent again.
func TestFigureCutAtRandomBytes(t *testing.T) {
	figures(t)
	const cuts, lanes, size = 200, 2, 128 << 20
	content := make([]byte, size)
	fillNoise(content, 5)
	whole, _, plain, _ := cutRun(t, lanes, content, nil)
	rnd := rand.New(rand.NewPCG(20, 20))
	var at []int64
	for range cuts {
		at = append(at, rnd.Int64N(whole))
	}
	up, left, took, stats := cutRun(t, lanes, content, at)
	again := (up - whole) / (cuts * lanes)
	figure(t, "cut at 200 random bytes", "identical; sent again ≤ 1 window a connection",
		"identical; %d cuts; %d KiB sent again for each cut and lane; %d sessions, %d replays; %.0f s, without cuts %.1f s",
		cuts-left, again>>10, stats.Sessions, stats.Replays, took.Seconds(), plain.Seconds())
	require.Zero(t, left)
	assert.Less(t, again, int64(16<<20))
}
