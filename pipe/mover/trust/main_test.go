package trust

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// long says that the longer forms of tests are wanted.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// payload is what the protocol would answer, and what a peer that is not trusted must not get a byte of.
const payload = "what only a peer may see"

// site is a server on 127.0.0.1 that greets whoever it trusts.
type site struct {
	t       *testing.T
	dir     string
	id      *Identity
	book    *Book
	address string
	arrived chan arrival
}

// arrival is what a server made of one connection.
type arrival struct {
	peer Peer
	err  error
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	id, err := LoadIdentity(dir)
	require.NoError(t, err)
	book, err := OpenBook(dir)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &site{t: t, dir: dir, id: id, book: book, address: l.Addr().String(), arrived: make(chan arrival, 1)}
	done := make(chan struct{})
	go func() { defer close(done); s.serve(l) }()
	t.Cleanup(func() { l.Close(); <-done })
	return s
}

// serve greets one peer after another.
func (s *site) serve(l net.Listener) {
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		conn, peer, err := Accept(ctx, raw, ServerTLS(s.id, s.book), s.book)
		cancel()
		if err == nil {
			_, _ = io.WriteString(conn, payload)
			_ = conn.Close()
		}
		s.arrived <- arrival{peer, err}
	}
}

// visit connects and reads what there is to read.
func (s *site) visit(config *tls.Config) (got string, server arrival, err error) {
	s.t.Helper()
	raw, err := net.DialTimeout("tcp", s.address, 10*time.Second)
	require.NoError(s.t, err)
	defer raw.Close()
	require.NoError(s.t, raw.SetDeadline(time.Now().Add(20*time.Second)))
	conn, err := Connect(s.t.Context(), raw, config)
	var data []byte
	if err == nil {
		_, _ = io.WriteString(conn, "a greeting that comes too early")
		data, err = io.ReadAll(conn)
		_ = conn.Close()
	}
	raw.Close()
	return string(data), <-s.arrived, Explain(err)
}

// welcome is a visit that succeeds.
func (s *site) welcome(id *Identity) Peer {
	s.t.Helper()
	got, server, err := s.visit(ClientTLS(id, s.id.Pin()))
	require.NoError(s.t, server.err)
	require.NoError(s.t, err)
	require.Equal(s.t, payload, got)
	return server.peer
}

// refused is a visit that fails, on the server's side because of want, without a byte and without a change.
func (s *site) refused(config *tls.Config, want error) error {
	s.t.Helper()
	before := s.bytes()
	got, server, err := s.visit(config)
	require.Error(s.t, err)
	require.Error(s.t, server.err)
	if want != nil {
		require.ErrorIs(s.t, server.err, want)
	}
	require.Empty(s.t, got)
	require.Equal(s.t, before, s.bytes(), "a peer that was refused has changed the book")
	return err
}

func (s *site) bytes() string {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, bookName))
	if !os.IsNotExist(err) {
		require.NoError(s.t, err)
	}
	return string(data)
}

// token makes one and is its key.
func (s *site) token(name string, role Role) (Token, *Identity) {
	s.t.Helper()
	token, err := s.book.AddToken(s.id.Pin(), name, role, time.Hour)
	require.NoError(s.t, err)
	id, err := token.Identity()
	require.NoError(s.t, err)
	return token, id
}

// enrol makes a peer the way a server does: a visit with a token, and then the call.
func (s *site) enrol(name string, role Role) *Identity {
	s.t.Helper()
	_, key := s.token(name, role)
	peer := s.welcome(key)
	require.True(s.t, peer.Token)
	id := fresh(s.t)
	_, err := s.book.Enrol(peer.Pin, id.PublicKey(), name+".example")
	require.NoError(s.t, err)
	return id
}

func fresh(t testing.TB) *Identity {
	t.Helper()
	id, err := NewIdentity()
	require.NoError(t, err)
	return id
}

// later moves a book's clock.
func later(b *Book, by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = func() time.Time { return time.Now().Add(by) }
}
