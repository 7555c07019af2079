package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		cleanUp()
		os.Exit(status)
	}))
}

// cleanUp takes away what tests of one system have made for all of them.
var cleanUp = func() {}

const password = "correct-horse-battery"

// host is a guest in memory, with the real component, and a way that a test can break.
type host struct {
	name string

	mu    sync.Mutex
	files map[string][]byte
	live  map[string]*running // components, by folder
	opens int
	fails []error // of the next opens
	login guest.Credential
	cut   []func() // of open streams
}

type running struct {
	stop func()
	done chan struct{}
}

func newHost(name string) *host {
	return &host{name: name, files: map[string][]byte{}, live: map[string]*running{}}
}

// left is what there is of ours.
func (h *host) left() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for path := range h.files {
		out = append(out, path)
	}
	for folder := range h.live {
		out = append(out, "process in "+folder)
	}
	slices.Sort(out)
	return out
}

func (h *host) opened() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opens
}

// cutLinks breaks every stream into the guest, so that the components' ends are theirs to see to.
func (h *host) cutLinks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.cut {
		f()
	}
	h.cut = nil
}

// road is a way into a host.
type road struct {
	h    *host
	cred guest.Credential
}

func (r *road) Kind() guest.Kind                        { return guest.SSH }
func (r *road) Probe(ctx context.Context) guest.Finding { return guest.ProbeByOpening(ctx, r) }

func (r *road) Open(context.Context) (guest.Channel, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.opens++
	if len(r.h.fails) > 0 {
		err := r.h.fails[0]
		r.h.fails = r.h.fails[1:]
		if err != nil {
			return nil, err
		}
	}
	if r.cred.Password != password {
		return nil, &guest.WayError{Kind: guest.SSH, Step: "login", Problem: "refused with " + r.cred.Password, Hint: "another password"}
	}
	r.h.login = r.cred
	return &lane{h: r.h}, nil
}

// lane is a channel into a host.
type lane struct{ h *host }

func (l *lane) Kind() guest.Kind { return guest.SSH }
func (l *lane) System() guest.System {
	return guest.System{OS: runtime.GOOS, Arch: runtime.GOARCH, Name: l.h.name, User: "root", Admin: true, Temp: []string{"/tmp"}}
}
func (l *lane) Close() error { return nil }

func (l *lane) Run(context.Context, string, []string, []byte) (hikae.RunResult, error) {
	return hikae.RunResult{ExitCode: 127}, nil
}

func (l *lane) Upload(_ context.Context, path string, data []byte, _ uint32) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.h.files[path] = slices.Clone(data)
	return nil
}

func (l *lane) Download(_ context.Context, path string, _ int64) ([]byte, error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	data, ok := l.h.files[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

func (l *lane) MakeDir(_ context.Context, path string) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if _, ok := l.h.files[path]; ok {
		return fs.ErrExist
	}
	l.h.files[path] = nil
	return nil
}

func (l *lane) Remove(_ context.Context, path string) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for p := range l.h.files {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(l.h.files, p)
		}
	}
	return nil
}

// Launch starts the real component in this process.
func (l *lane) Launch(_ context.Context, p guest.Program) (io.ReadWriteCloser, error) {
	near, far := net.Pipe()
	r := &running{stop: func() { _ = far.Close() }, done: make(chan struct{})}
	folder := filepath.Dir(p.Path)
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.h.live[folder] = r
	l.h.cut = append(l.h.cut, func() { _ = far.Close() })
	go func() {
		_ = agent.New(&agent.Options{Product: "hikae-agent in a test", Admin: true}).Serve(context.Background(), far)
		l.h.mu.Lock()
		delete(l.h.live, folder)
		l.h.mu.Unlock()
		_ = l.Remove(context.Background(), folder)
		close(r.done)
	}()
	return near, nil
}

// Clean implements [guest.Cleaner].
func (l *lane) Clean(ctx context.Context, p guest.Program) (left []string, err error) {
	folder := filepath.Dir(p.Path)
	l.h.mu.Lock()
	r := l.h.live[folder]
	l.h.mu.Unlock()
	if r != nil {
		r.stop()
		select {
		case <-r.done:
		case <-ctx.Done():
			return []string{"process"}, nil
		}
	}
	return nil, l.Remove(ctx, folder)
}

// programs are a file that is this very program, of which nothing is run.
type programs struct{}

func (programs) Build(os, arch string) (*guest.Build, error) {
	b := &guest.Build{OS: os, Arch: arch, Content: []byte("a component")}
	b.SHA256 = sumOf(b.Content)
	return b, nil
}

// town is a set of hosts, and a proxy that reaches them.
type town struct {
	t      *testing.T
	mu     sync.Mutex
	hosts  map[string]*host
	log    *lines
	server *Server
	peer   trust.Peer
	opts   ServerOptions

	serving sync.WaitGroup
	cut     func(net.Conn) net.Conn // wraps the client's end of each connection
	down    bool                    // nobody listens
	dials   int
	waits   []time.Duration
}

func newTown(t *testing.T, o *ServerOptions) *town {
	w := &town{t: t, hosts: map[string]*host{}, log: &lines{}, peer: trust.Peer{Name: "controller", Role: trust.Guest, Serial: 7}}
	if o != nil {
		w.opts = *o
	}
	w.opts.Ways = Ways{guest.SSH: func(settings json.RawMessage, c guest.Credential) (guest.Way, error) {
		var to struct{ Host string }
		if err := json.Unmarshal(settings, &to); err != nil {
			return nil, fmt.Errorf("settings: %w", fs.ErrInvalid)
		}
		return &road{h: w.host(to.Host), cred: c}, nil
	}}
	w.opts.Programs = programs{}
	w.opts.Log = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.opts.Version = "test"
	w.start()
	t.Cleanup(func() {
		w.stop()
		require.NotContains(t, w.log.String(), password)
	})
	return w
}

// start is a new process of the proxy.
func (w *town) start() {
	w.t.Helper()
	s, err := NewServer(&w.opts)
	require.NoError(w.t, err)
	s.sleep = func(ctx context.Context, d time.Duration) error { return ctx.Err() }
	w.server = s
}

func (w *town) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(w.t, w.server.Close(ctx))
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	w.serving.Wait()
}

func (w *town) host(name string) *host {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hosts[name] == nil {
		w.hosts[name] = newHost(name)
	}
	return w.hosts[name]
}

var errDown = errors.New("nobody listens there")

// dial is a connection to the proxy, without TLS: what that does is another test's.
func (w *town) dial(ctx context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials++
	if w.down {
		return nil, errDown
	}
	near, far := net.Pipe()
	server, peer := w.server, w.peer
	w.serving.Go(func() { _ = server.ServeConn(context.Background(), far, peer) })
	if w.cut != nil {
		return w.cut(near), ctx.Err()
	}
	return near, ctx.Err()
}

func (w *town) client() *Client {
	w.t.Helper()
	c, err := NewClient(&ClientOptions{Name: "p1", Dial: w.dial, Sleep: func(ctx context.Context, d time.Duration) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waits = append(w.waits, d)
		return ctx.Err()
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, c.Close()) })
	return c
}

func (w *town) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

func way(host string) []Way {
	return []Way{{Kind: guest.SSH, Settings: map[string]string{"Host": host}, Credential: guest.Credential{User: "root", Password: password}}}
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

func empty(t *testing.T, h *host) {
	t.Helper()
	require.Eventually(t, func() bool { return len(h.left()) == 0 }, 10*time.Second, time.Millisecond, "%v", h.left())
}

func tier(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("HIKAE_TEST_TIER"), ","), name)
}

func longTier() bool { return tier("long") || tier("release") }
