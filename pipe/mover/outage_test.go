package mover

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
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// telling is a backend in memory that says what is durable: all of it, at once.
type telling struct{ pipe.Backend }

type tellingWriter struct{ pipe.PointWriter }

func (b telling) Begin(ctx context.Context, vm string, o *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := b.Backend.Begin(ctx, vm, o)
	return tellingWriter{w}, err
}

func (tellingWriter) Stamp() uint64                { return 1 }
func (tellingWriter) Durable() uint64              { return 1 }
func (tellingWriter) Settle(context.Context) error { return nil }

// hole is a connection into which what is written may vanish, until it is closed.
type hole struct {
	net.Conn
	deaf atomic.Bool
	shut chan struct{}
	once sync.Once
}

func (h *hole) Close() error {
	h.once.Do(func() { close(h.shut) })
	return h.Conn.Close()
}

func (h *hole) Write(p []byte) (int, error) {
	if h.deaf.Load() {
		<-h.shut
		return 0, net.ErrClosed
	}
	return h.Conn.Write(p)
}

// One of two lines stalls with calls on it that later ones overtake by the other; then both are cut, for less than a
// session is kept. The calls come late, and count.
func TestOutageBehindAStall(t *testing.T) {
	t.Parallel()
	for _, outage := range []time.Duration{6 * time.Minute, 28 * time.Minute} {
		for _, role := range []trust.Role{trust.Append, trust.Full} {
			t.Run(outage.String()+" "+string(role), func(t *testing.T) {
				dir, cache := t.TempDir(), t.TempDir()
				bubble.Test(t, func(t *testing.T) { stallAndCut(t, dir, cache, outage, role) })
			})
		}
	}
}

func stallAndCut(t *testing.T, dir, cache string, outage time.Duration, role trust.Role) {
	host, err := newHost(&ServerOptions{Backend: telling{pipetest.NewBackend(testBlock)}, StateDir: dir}, nil)
	require.NoError(t, err)
	defer host.tenants.close()
	srv := session.NewServer(&session.ServerOptions{
		Open: func(ctx context.Context, p trust.Peer, push func(wire.Message)) (session.Handler, error) {
			return handlerOf(newHandler(ctx, host, p, push))
		}, MaxLanes: 2,
	})
	defer srv.Close()
	var mu sync.Mutex
	var lines []*hole
	down := false
	dial := func(context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return nil, errors.New("no line")
		}
		near, far := net.Pipe()
		h := &hole{Conn: near, shut: make(chan struct{})}
		lines = append(lines, h)
		go func() { _ = srv.ServeConn(context.Background(), far, trust.Peer{Name: "web", Role: role}) }()
		return h, nil
	}
	c := newClient(func(ctx context.Context, push func(wire.Message)) (line, greeting, error) {
		s, err := session.NewClient(ctx, &session.ClientOptions{Dial: dial, Lanes: 2, Push: push})
		if err != nil {
			return nil, greeting{}, err
		}
		return s, greeting{peer: "web"}, nil
	}, trust.Pin{1}, settings{CacheDir: cache}.withDefaults())
	defer c.Close()
	const blocks = 24
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	d, err := w.Disk(t.Context(), "d", blocks*testBlock)
	require.NoError(t, err)
	time.Sleep(3 * time.Second) // until both lines are there
	synctest.Wait()
	mu.Lock()
	require.Len(t, lines, 2)
	lines[0].deaf.Store(true)
	mu.Unlock()
	bt := d.(pipe.BlockTarget)
	var wg sync.WaitGroup
	errs := make([]error, blocks)
	for i := range blocks {
		wg.Go(func() {
			p := chacha(uint64(i+1), testBlock)
			_, errs[i] = bt.PutBlock(t.Context(), int64(i)*testBlock, bt.Fingerprint(p), len(p), pipe.Plain, p)
		})
	}
	time.Sleep(time.Second)
	mu.Lock()
	down = true
	for _, h := range lines {
		_ = h.Close()
	}
	mu.Unlock()
	time.Sleep(outage)
	mu.Lock()
	down = false
	mu.Unlock()
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, d.Commit(t.Context()))
	_, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.Zero(t, c.Stats().Replays, "the session was there all the time")
}
