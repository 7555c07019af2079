package mover

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// yard is a mover on 127.0.0.1, with its book and its key, over TLS and real sessions.
type yard struct {
	t       testing.TB
	server  *Server
	book    *trust.Book
	id      *trust.Identity
	address string
	log     *lines
	seen    *tally
	opts    ServerOptions
	stop    func()
}

// newYard starts a mover. Without options it is a trusted target of a new repository.
func newYard(t testing.TB, o *ServerOptions) *yard {
	t.Helper()
	y := &yard{t: t, log: &lines{}, seen: &tally{}}
	if o != nil {
		y.opts = *o
	}
	if y.opts.Backend == nil && y.opts.Blind == nil && y.opts.Source == nil {
		y.opts.Backend = newRepo(t)
	}
	dir := t.TempDir()
	var err error
	y.book, err = trust.OpenBook(dir)
	require.NoError(t, err)
	y.id, err = trust.LoadIdentity(dir)
	require.NoError(t, err)
	if y.opts.StateDir == "" {
		y.opts.StateDir = t.TempDir()
	}
	y.opts.Identity, y.opts.Book, y.opts.Observer = y.id, y.book, y.seen
	y.opts.Log = slog.New(slog.NewTextHandler(y.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	y.opts.Version = "test"
	y.start("127.0.0.1:0")
	t.Cleanup(func() { y.stop() })
	return y
}

func newRepo(t testing.TB) *repo.Repository {
	r, err := repo.Init(t.Context(), memstore.New(nil), repo.KeyFile([32]byte{1}), &repo.InitOptions{BlockSize: testBlock}, repoOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// start serves at an address; stop ends it at once, or as soon as its calls have ended.
func (y *yard) start(address string) {
	y.t.Helper()
	s, err := NewServer(&y.opts)
	require.NoError(y.t, err)
	l, err := net.Listen("tcp", address)
	require.NoError(y.t, err)
	y.server, y.address = s, l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	y.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(y.t, s.Shutdown(ctx))
		require.NoError(y.t, <-done)
	})
}

// enrol makes a peer by the way of its token, and returns its key.
func (y *yard) enrol(name string, role trust.Role) *trust.Identity {
	y.t.Helper()
	token, err := y.book.AddToken(y.id.Pin(), name, role, time.Hour)
	require.NoError(y.t, err)
	key, err := token.Identity()
	require.NoError(y.t, err)
	id, err := trust.NewIdentity()
	require.NoError(y.t, err)
	_, err = y.book.Enrol(key.Pin(), id.PublicKey(), "test")
	require.NoError(y.t, err)
	return id
}

// dial connects a peer.
func (y *yard) dial(id *trust.Identity) *Client {
	y.t.Helper()
	c, err := Dial(y.t.Context(), y.address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), CacheDir: y.t.TempDir(), GiveUp: 20 * time.Second})
	require.NoError(y.t, err)
	y.t.Cleanup(func() { require.NoError(y.t, c.Close()) })
	return c
}

// lines is a log that can be read.
type lines struct {
	mu  sync.Mutex
	all []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p...)
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.all)
}

// R009, R010, R025: over TLS, on a real socket, with real sessions.
func TestServer(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	full, web := y.dial(y.enrol("full", trust.Full)), y.dial(y.enrol("web", trust.Append))
	require.Equal(t, "web", web.Peer())
	img := pipetest.NewPattern(7, 300*testBlock+512, pipetest.RandomLayout(7, 300*testBlock+512, pipe.Data, pipe.Zero)...)
	id := mustBackup(t, web, "vm1", img, nil)
	requireSame(t, full, id, img)

	h, err := full.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, "trusted", h.Mode)
	require.EqualValues(t, 2, h.Sessions)
	h, err = web.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, &wire.HealthIs{Version: "test", Mode: "trusted", Role: "append"}, h)
	require.Greater(t, y.seen.in.Load(), int64(0))
}

// A mover that ends and comes back goes on with what its callers bring again.
func TestShutdownAndBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	img := pipetest.NewPattern(8, 64*testBlock)
	w, err := c.Begin(t.Context(), "vm1", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", img.Size())
	require.NoError(t, err)
	defer d.Close()
	_, err = pipe.Copy(t.Context(), d, img, nil)
	require.NoError(t, err)

	y.stop()
	y.start(y.address)

	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	requireSame(t, y.opts.Backend, id, img)
}

// A mover that is stuck does not say that it is alive, and the watchdog ends it.
func TestAlive(t *testing.T) {
	t.Parallel()
	y := newYard(t, &ServerOptions{Backend: newRepo(t)})
	require.NoError(t, y.server.Alive(t.Context()))
	for _, lock := range []sync.Locker{&y.server.mu, &y.server.host.mu} {
		lock.Lock()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			require.ErrorIs(t, y.server.Alive(ctx), context.DeadlineExceeded)
			cancel()
		}
		lock.Unlock()
		require.NoError(t, y.server.Alive(t.Context()))
	}
}
