package session

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long reports whether tests may take long.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// ledger is a handler that writes down how often it was asked for what.
type ledger struct {
	mu     sync.Mutex
	times  map[int64]int // by the offset of a Put
	closed int
	late   int // calls that began behind Close
	hold   func(ctx context.Context, req wire.Message) error
}

func newLedger() *ledger { return &ledger{times: map[int64]int{}} }

func (h *ledger) Handle(ctx context.Context, call uint64, req wire.Message) (wire.Message, error) {
	if h.hold != nil {
		if err := h.hold(ctx, req); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed > 0 {
		h.late++
	}
	switch m := req.(type) {
	case *wire.Put:
		h.times[m.Off]++
		if len(m.Data) > 0 && m.Data[0] != byte(m.Off) {
			return nil, errors.New("another's content")
		}
		return &wire.Placed{Stored: m.Off}, nil
	case *wire.ReadImage:
		return &wire.Content{Data: make([]byte, m.Len)}, nil
	case *wire.Health:
		return &wire.HealthIs{Seconds: call}, nil
	}
	return nil, &wire.Fail{Code: wire.CodeUnsupported, Text: "not here"}
}

func (h *ledger) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed++
	return nil
}

// ended is how often the handler was closed.
func (h *ledger) ended() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// once fails where a Put was not carried out exactly once.
func (h *ledger) once(t testing.TB, n int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Len(t, h.times, n)
	for off, times := range h.times {
		require.Equal(t, 1, times, "put %d", off)
	}
	require.Zero(t, h.late)
}

// site is a server in memory, and what its clients need to reach it.
type site struct {
	t      testing.TB
	ctx    context.Context
	stop   context.CancelFunc
	mu     sync.Mutex
	server *Server
	books  []*ledger // of its sessions, in order
	room   int
	prep   func(n int, client, server *memConn) // of the nth connection, before it is used
	conns  []*memConn                           // the clients' ends
	down   bool
	lanes  sync.WaitGroup
	errs   []error // of ServeConn
}

func newSite(t testing.TB, opts *ServerOptions) *site {
	s := &site{t: t, room: 64 << 10}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.server = NewServer(s.filled(opts))
	return s
}

func (s *site) filled(opts *ServerOptions) *ServerOptions {
	var o ServerOptions
	if opts != nil {
		o = *opts
	}
	if o.Open == nil && o.Collect == nil {
		o.Open = func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
			h := newLedger()
			s.mu.Lock()
			s.books = append(s.books, h)
			s.mu.Unlock()
			return h, nil
		}
	}
	return &o
}

// book is the ledger of the nth session.
func (s *site) book(n int) *ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.books[n]
}

func (s *site) dial(name string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.down {
			return nil, errors.New("the line is down")
		}
		client, server := memPair(s.room)
		if s.prep != nil {
			s.prep(len(s.conns), client, server)
		}
		s.conns = append(s.conns, client)
		s.lanes.Go(func() {
			err := s.server.ServeConn(s.ctx, server, trust.Peer{Name: name})
			s.mu.Lock()
			s.errs = append(s.errs, err)
			s.mu.Unlock()
		})
		return client, nil
	}
}

func (s *site) client(opts *ClientOptions) *Client {
	s.t.Helper()
	var o ClientOptions
	if opts != nil {
		o = *opts
	}
	if o.Dial == nil {
		o.Dial = s.dial("peer")
	}
	c, err := NewClient(s.t.Context(), &o)
	require.NoError(s.t, err)
	return c
}

// setDown makes new connections fail, or not.
func (s *site) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// cutAll breaks all connections.
func (s *site) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

// darken makes all connections that there are black holes, both ways.
func (s *site) darken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.in.do(func() { c.in.dark = true })
		c.out.do(func() { c.out.dark = true })
	}
}

// close ends everything and waits for it.
func (s *site) close() {
	s.server.Close()
	s.stop()
	s.lanes.Wait()
}

// put is a call whose handling is counted by its number.
func put(i int, size int) *wire.Put {
	data := make([]byte, size)
	_, _ = rand.Read(data)
	if size > 0 {
		data[0] = byte(i)
	}
	return &wire.Put{Off: int64(i), ID: pipe.ID{byte(i)}, Plain: uint32(max(size, 1)), Content: size > 0, Data: data}
}

// putAll makes n calls, some at once, and checks the answers.
func putAll(t testing.TB, c *Client, n, size, atOnce int) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				answer, err := c.Call(t.Context(), put(i, size))
				if err != nil {
					t.Errorf("put %d: %v", i, err)
					continue
				}
				if p, ok := answer.(*wire.Placed); !ok || p.Stored != int64(i) {
					t.Errorf("put %d was answered %v", i, answer)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// soon waits until ok, for at most a second more than it takes.
func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

// dialOnce gives a connection once, and then none.
func dialOnce(conn net.Conn, dials *int) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		if *dials++; *dials > 1 {
			return nil, errors.New("the line is down")
		}
		return conn, nil
	}
}
