package trust

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server speaks the protocols that it names and no other, with the same keys; a peer comes for one of them, and both
// sides know which.
func TestProtocols(t *testing.T) {
	s := newSite(t)
	id := s.enrol("controller", Guest)
	served := []string{ALPN, "hikae-guest/1"}
	meet := func(protocol ...string) (string, error, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		type end struct {
			protocol string
			err      error
		}
		far := make(chan end, 1)
		go func() {
			raw, err := l.Accept()
			if err != nil {
				far <- end{err: err}
				return
			}
			conn, peer, err := Accept(t.Context(), raw, ServerTLS(s.id, s.book, served...), s.book)
			if err != nil {
				far <- end{err: err}
				return
			}
			defer conn.Close()
			_, err = PeerOf(conn, s.book) // the default is the movers' alone
			if got := conn.ConnectionState().NegotiatedProtocol; peer.Role == Guest && (err == nil) == (got == ALPN) {
				far <- end{protocol: got}
				return
			}
			far <- end{err: err}
		}()
		raw, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		conn, err := Connect(t.Context(), raw, ClientTLS(id, s.id.Pin(), protocol...))
		if err == nil {
			defer conn.Close()
		}
		e := <-far
		return e.protocol, err, e.err
	}
	for want, offered := range map[string][]string{ALPN: nil, "hikae-guest/1": {"hikae-guest/1"}} {
		got, near, far := meet(offered...)
		require.NoError(t, near)
		require.NoError(t, far)
		require.Equal(t, want, got)
	}
	_, near, far := meet("hikae-agent/1")
	require.Error(t, near)
	require.Error(t, far)
	s.refused(ClientTLS(id, s.id.Pin(), "hikae-guest/1"), nil) // a site that serves the movers' alone
	require.Equal(t, []string{ALPN, "hikae-guest/1"}, served)

	for _, role := range Roles {
		got, err := ParseRole(string(role))
		require.NoError(t, err)
		require.Equal(t, role, got)
	}
}
