package main

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// machine is one with a state of its own, on which commands run in this process.
type machine struct{ env map[string]string }

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	return &machine{env: map[string]string{"HIKAE_STATE_DIR": filepath.Join(dir, "state"), "HIKAE_CACHE_DIR": filepath.Join(dir, "cache")}}
}

func (m *machine) tool() (*tool, *bytes.Buffer) {
	var out bytes.Buffer
	return &tool{stdin: strings.NewReader(""), stdout: &out, stderr: &out, env: func(k string) string { return m.env[k] }}, &out
}

// run runs a command line, and returns all that it says.
func (m *machine) run(t *testing.T, args ...string) (outcome.Status, string) {
	t.Helper()
	tl, out := m.tool()
	status := tl.run(t.Context(), args)
	return status, out.String()
}

func (m *machine) must(t *testing.T, args ...string) string {
	t.Helper()
	status, text := m.run(t, args...)
	require.Zero(t, status, "hikae %s: %s", strings.Join(args, " "), text)
	return text
}

// enrolled puts an enrolment there without a token, and returns its folder.
func (m *machine) enrolled(t *testing.T, at *standing, e enrolment) string {
	t.Helper()
	token, err := at.book.AddToken(at.id.Pin(), e.Name, trust.Role(e.Role), time.Hour)
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	dir := filepath.Join(addressDir(m.env["HIKAE_STATE_DIR"], at.address), folderName(e.Name))
	mine, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	_, err = at.book.Enrol(once.Pin(), mine.PublicKey(), "")
	require.NoError(t, err)
	e.Address, e.Server = at.address, at.id.Pin().String()
	require.NoError(t, keepEnrolment(dir, e))
	return dir
}

// standing is a mover that listens.
type standing struct {
	id      *trust.Identity
	book    *trust.Book
	address string
}

func newStanding(t *testing.T) (*standing, string, net.Listener) {
	t.Helper()
	dir := t.TempDir()
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return &standing{id, book, l.Addr().String()}, dir, l
}

// stand lets a real mover listen.
func stand(t *testing.T, opts mover.ServerOptions) *standing {
	t.Helper()
	at, dir, l := newStanding(t)
	opts.Identity, opts.Book, opts.StateDir = at.id, at.book, dir
	s, err := mover.NewServer(&opts)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		<-served
	})
	return at
}

// answers is a mover that says what a test wants it to say. It has a right key, so that its peers trust it.
type answers func(req wire.Message) (wire.Message, error)

func (a answers) Handle(_ context.Context, _ uint64, req wire.Message) (wire.Message, error) {
	return a(req)
}
func (answers) Close() error { return nil }

func standHostile(t *testing.T, a answers) *standing {
	t.Helper()
	at, _, l := newStanding(t)
	open := func(context.Context, trust.Peer) (session.Handler, error) { return a, nil }
	s := session.NewServer(&session.ServerOptions{
		Open: func(ctx context.Context, p trust.Peer, _ func(wire.Message)) (session.Handler, error) {
			return open(ctx, p)
		},
		Collect: func(ctx context.Context, p trust.Peer, _ *session.Client) (session.Handler, error) {
			return open(ctx, p)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		_ = s.Close()
	})
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, peer, err := trust.Accept(ctx, raw, trust.ServerTLS(at.id, at.book), at.book)
				if err == nil {
					_ = s.ServeConn(ctx, conn, peer)
				}
			}()
		}
	}()
	return at
}
