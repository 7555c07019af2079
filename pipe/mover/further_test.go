package mover

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
)

const echoALPN = "echo/1"

// echo is another protocol: it says who came, and sends back what it gets.
type echo struct{ served, ended atomic.Int32 }

func (e *echo) ServeConn(ctx context.Context, conn net.Conn, peer trust.Peer) error {
	e.served.Add(1)
	defer e.ended.Add(1)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, peer.Name+"\n"); err != nil {
		return err
	}
	_, err := io.Copy(conn, conn)
	return err
}

// further starts a mover that serves the echo beside whatever o says.
func further(t *testing.T, o *ServerOptions) (*yard, *echo) {
	e := &echo{}
	o.Protocols = map[string]Protocol{echoALPN: e}
	return newYard(t, o), e
}

// speak connects for a protocol, and reads the greeting.
func (y *yard) speak(id *trust.Identity, protocol string) (net.Conn, string, error) {
	raw, err := net.Dial("tcp", y.address)
	require.NoError(y.t, err)
	conn, err := trust.Connect(y.t.Context(), raw, trust.ClientTLS(id, y.id.Pin(), protocol))
	if err != nil {
		return nil, "", err
	}
	y.t.Cleanup(func() { conn.Close() })
	require.NoError(y.t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	p := make([]byte, 64)
	n, err := conn.Read(p)
	return conn, string(p[:n]), err
}

// R160: another service stands behind the mover's port, with the same keys and the same book; the mover goes on.
func TestFurtherProtocol(t *testing.T) {
	t.Parallel()
	y, e := further(t, &ServerOptions{})
	id := y.enrol("controller", trust.Guest)
	conn, greeting, err := y.speak(id, echoALPN)
	require.NoError(t, err)
	require.Equal(t, "controller\n", greeting)
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	back := make([]byte, 5)
	_, err = io.ReadFull(conn, back)
	require.NoError(t, err)
	require.Equal(t, "hello", string(back))

	h, err := y.dial(id).Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, "guest", h.Role)
	require.NoError(t, y.dial(y.enrol("full", trust.Full)).Close())

	_, _, err = y.speak(id, "echo/2")
	require.Error(t, err)
	stranger, err := trust.NewIdentity()
	require.NoError(t, err)
	_, greeting, err = y.speak(stranger, echoALPN)
	require.Error(t, err)
	require.Empty(t, greeting)
	require.EqualValues(t, 1, e.served.Load())
}

// Whoever is taken out of the book loses what is open, and the end of the mover is the end of all.
func TestFurtherProtocolEnds(t *testing.T) {
	t.Parallel()
	y, e := further(t, &ServerOptions{})
	gone, _, err := y.speak(y.enrol("gone", trust.Guest), echoALPN)
	require.NoError(t, err)
	stays, _, err := y.speak(y.enrol("stays", trust.Full), echoALPN)
	require.NoError(t, err)
	require.NoError(t, y.book.Revoke("gone"))
	_, err = gone.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, errors.Is(err, context.DeadlineExceeded))
	require.Eventually(t, func() bool { return e.ended.Load() == 1 }, 10*time.Second, time.Millisecond)
	y.stop()
	_, err = stays.Read(make([]byte, 1))
	require.Error(t, err)
	require.EqualValues(t, 2, e.ended.Load())
}

// A machine that only is a guest interaction proxy has no repository: it enrols peers and tells how it is.
func TestOnlyFurtherProtocols(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	o := &ServerOptions{Identity: id, Book: book}
	_, err = NewServer(o)
	require.Error(t, err)
	o.Protocols = map[string]Protocol{trust.ALPN: &echo{}}
	_, err = NewServer(o)
	require.Error(t, err)
	o.Protocols = map[string]Protocol{echoALPN: &echo{}}
	s, err := NewServer(o)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown(context.Background()))
		require.NoError(t, <-done)
	})
	token, err := book.AddToken(id.Pin(), "controller", trust.Guest, time.Hour)
	require.NoError(t, err)
	own, err := trust.NewIdentity()
	require.NoError(t, err)
	e, err := Enrol(t.Context(), l.Addr().String(), token, &DialOptions{Identity: own})
	require.NoError(t, err)
	require.Equal(t, trust.Guest, e.Role)
	require.Equal(t, "proxy", e.Mode)
}
