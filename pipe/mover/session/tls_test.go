package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// loopback is a server on a real port, with real keys.
type loopback struct {
	t        testing.TB
	listener net.Listener
	server   *Server
	id, peer *trust.Identity
	book     *trust.Book
}

func newLoopback(t testing.TB, opts *ServerOptions) *loopback {
	t.Helper()
	var err error
	lb := &loopback{t: t}
	lb.id, err = trust.NewIdentity()
	require.NoError(t, err)
	lb.peer, err = trust.NewIdentity()
	require.NoError(t, err)
	lb.book, err = trust.OpenBook(t.TempDir())
	require.NoError(t, err)
	token, err := lb.book.AddToken(lb.id.Pin(), "peer", trust.Full, time.Hour)
	require.NoError(t, err)
	tokenID, err := token.Identity()
	require.NoError(t, err)
	_, err = lb.book.Enrol(tokenID.Pin(), lb.peer.PublicKey(), "host")
	require.NoError(t, err)
	lb.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if opts != nil {
		lb.server = NewServer(opts)
	}
	return lb
}

// accept hands each connection whose peer is known to serve, until the listener is closed.
func (lb *loopback) accept(serve func(ctx context.Context, conn net.Conn, peer trust.Peer)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	config := trust.ServerTLS(lb.id, lb.book)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := lb.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if conn, peer, err := trust.Accept(ctx, raw, config, lb.book); err == nil {
					serve(ctx, conn, peer)
				}
			})
		}
	})
	return func() {
		lb.listener.Close()
		cancel()
		wg.Wait()
	}
}

func (lb *loopback) dial(ctx context.Context) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", lb.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	return trust.Connect(ctx, raw, trust.ClientTLS(lb.peer, lb.id.Pin()))
}

// serve runs the server.
func (lb *loopback) serve() (stop func()) {
	end := lb.accept(func(ctx context.Context, conn net.Conn, peer trust.Peer) { _ = lb.server.ServeConn(ctx, conn, peer) })
	return func() {
		lb.server.Close()
		end()
	}
}

// The bar: 1,000 sessions at once, all complete, the slowest within three times the median. Fifty in the fast tier.
func TestManySessions(t *testing.T) {
	many := 50
	if long() {
		many = 1000
	}
	var mu sync.Mutex
	var books []*ledger
	lb := newLoopback(t, &ServerOptions{MaxPerPeer: many, Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
		h := newLedger()
		mu.Lock()
		defer mu.Unlock()
		books = append(books, h)
		return h, nil
	}})
	defer lb.serve()()
	took := make([]time.Duration, many)
	clients := make([]*Client, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			c, err := NewClient(t.Context(), &ClientOptions{Dial: lb.dial, Patience: 5 * time.Minute})
			if err != nil {
				t.Errorf("session %d: %v", i, err)
			}
			clients[i] = c
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	require.Equal(t, many, lb.server.Stats().Sessions)
	start := time.Now()
	for i, c := range clients {
		wg.Go(func() {
			putAll(t, c, 20, 64<<10, 4)
			took[i] = time.Since(start)
		})
	}
	wg.Wait()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	slices.Sort(took)
	t.Logf("%d sessions, both ends in this process: %d MiB of memory, median %v, slowest %v", many, m.Sys>>20, took[many/2], took[many-1])
	require.LessOrEqual(t, took[many-1], 3*took[many/2]+time.Second)
	for _, c := range clients {
		wg.Go(func() { c.Close() })
	}
	wg.Wait()
	for _, b := range books {
		b.once(t, 20)
	}
	soon(t, "all sessions end", func() bool { return lb.server.Stats().Sessions == 0 })
}

// An unknown key is told so, and the client does not try again.
func TestUnknownKey(t *testing.T) {
	lb := newLoopback(t, &ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) { return newLedger(), nil }})
	defer lb.serve()()
	var err error
	lb.peer, err = trust.NewIdentity()
	require.NoError(t, err)
	_, err = NewClient(t.Context(), &ClientOptions{Dial: lb.dial, Patience: time.Hour})
	require.ErrorIs(t, err, trust.ErrRefused)
}

// sink takes blocks and does nothing with them.
type sink struct{}

func (sink) Handle(context.Context, uint64, wire.Message) (wire.Message, error) {
	return &wire.Placed{}, nil
}
func (sink) Close() error { return nil }

const benchBlock = 256 << 10

// What a session costs: compare the processor time of the two.
func BenchmarkSession(b *testing.B) {
	for _, writers := range []int{8, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			lb := newLoopback(b, &ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) { return sink{}, nil }})
			defer lb.serve()()
			c, err := NewClient(b.Context(), &ClientOptions{Dial: lb.dial, Lanes: 1})
			require.NoError(b, err)
			defer c.Close()
			block := put(1, benchBlock)
			b.SetBytes(benchBlock)
			b.ResetTimer()
			busy := processorTime()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; i < b.N; i += writers {
						if _, err := c.Call(b.Context(), block); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric((processorTime()-busy).Seconds()/float64(b.N)/benchBlock*1e9, "cpu-s/GB")
		})
	}
}

func BenchmarkPlainTLS(b *testing.B) {
	lb := newLoopback(b, nil)
	end := make(chan struct{})
	stop := lb.accept(func(_ context.Context, conn net.Conn, _ trust.Peer) {
		defer conn.Close()
		p := make([]byte, benchBlock)
		for {
			if _, err := io.ReadFull(conn, p); err != nil {
				return
			}
			end <- struct{}{}
		}
	})
	conn, err := lb.dial(b.Context())
	require.NoError(b, err)
	defer stop()
	defer conn.(*tls.Conn).Close()
	p := put(1, benchBlock).Data
	b.SetBytes(benchBlock)
	b.ResetTimer()
	busy := processorTime()
	go func() {
		for range b.N {
			if _, err := conn.Write(p); err != nil {
				b.Error(err)
			}
		}
	}()
	for range b.N {
		<-end
	}
	b.ReportMetric((processorTime()-busy).Seconds()/float64(b.N)/benchBlock*1e9, "cpu-s/GB")
}
