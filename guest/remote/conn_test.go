package remote

import (
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// component is a port of a guest that speaks TLS and sends back what it gets.
func component(t *testing.T) (address string, port uint16, book *trust.Book, id *trust.Identity) {
	t.Helper()
	dir := t.TempDir()
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	id, err = trust.LoadIdentity(dir)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn, _, err := trust.Accept(t.Context(), raw, trust.ServerTLS(id, book, "hikae-agent/1"), book)
			if err == nil {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), uint16(l.Addr().(*net.TCPAddr).Port), book, id
}

// R128, R147: a persistent component is reached through the proxy by its one port. TLS is between the backup server and the
// guest: the proxy has no key for it. It connects to no other port.
func TestDialGuest(t *testing.T) {
	t.Parallel()
	address, port, book, server := component(t)
	w := newTown(t, &ServerOptions{Direct: []uint16{port}})
	c := w.client()
	token, err := book.AddToken(server.Pin(), "controller", trust.Full, time.Hour)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	own, err := trust.NewIdentity()
	require.NoError(t, err)
	_, err = book.Enrol(key.Pin(), own.PublicKey(), "test")
	require.NoError(t, err)

	raw, err := c.DialGuest(t.Context(), "vm1", address)
	require.NoError(t, err)
	require.Equal(t, address, raw.RemoteAddr().String())
	conn, err := trust.Connect(t.Context(), raw, trust.ClientTLS(own, server.Pin(), "hikae-agent/1"))
	require.NoError(t, err)
	go func() { _, _ = conn.Write(make([]byte, 3*window)) }()
	_, err = io.ReadFull(conn, make([]byte, 3*window))
	require.NoError(t, err)

	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { st, err := c.Status(t.Context()); return err == nil && st.Tasks == 0 }, 10*time.Second, time.Millisecond)

	_, err = c.DialGuest(t.Context(), "vm1", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)^1)))
	require.ErrorIs(t, err, fs.ErrPermission)
	for _, bad := range []string{"", "host", ":" + strconv.Itoa(int(port)), "host:ssh", "host:99999999"} {
		_, err = c.DialGuest(t.Context(), "vm1", bad)
		require.Error(t, err, bad)
	}
}

// Deadlines are for one wait; a new one takes the old one's place.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	s := newStream(func() {})
	c := &guestConn{stream: s}
	require.NoError(t, c.SetDeadline(time.Now().Add(-time.Second)))
	require.Eventually(t, func() bool { _, err := c.Write([]byte("x")); return err != nil }, 10*time.Second, time.Millisecond)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
	require.NoError(t, c.SetDeadline(time.Time{}))
	time.Sleep(40 * time.Millisecond)
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, s.put(0, []byte("y")))
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = c.Write(make([]byte, 2*window))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, s.Close())
}
