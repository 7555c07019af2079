package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An enrolled peer comes through, on a connection of the one scheme. (R010)
func TestEnrolledPeer(t *testing.T) {
	s := newSite(t)
	id := s.enrol("site-a", Append)
	peer := s.welcome(id)
	require.Equal(t, "site-a", peer.Name)
	require.Equal(t, Append, peer.Role)
	require.Equal(t, id.Pin(), peer.Pin)
	require.Equal(t, "site-a.example", peer.Host)
	require.False(t, peer.Token)

	raw, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	conn, err := Connect(t.Context(), raw, ClientTLS(id, s.id.Pin()))
	require.NoError(t, err)
	defer conn.Close()
	cs := conn.ConnectionState()
	require.EqualValues(t, tls.VersionTLS13, cs.Version)
	require.Equal(t, ALPN, cs.NegotiatedProtocol)
	require.Equal(t, tls.X25519MLKEM768, cs.CurveID)
	require.False(t, cs.DidResume)
	require.NoError(t, (<-s.arrived).err)
}

// showing is a client's config with a certificate of the caller's choice.
func showing(s *site, chain [][]byte, key any) *tls.Config {
	c := ClientTLS(fresh(s.t), s.id.Pin())
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
	}
	return c
}

// selfMade is a certificate for a key, by that key.
func selfMade(t *testing.T, key ed25519.PrivateKey, from, to time.Duration) []byte {
	t.Helper()
	der, err := selfSigned(key, time.Now().Add(from), time.Now().Add(to))
	require.NoError(t, err)
	return der
}

// issued is a certificate for a public key, by somebody else's key, under a name of its own.
func issued(t *testing.T, public, by any, signer any, self bool) []byte {
	t.Helper()
	ca := &x509.Certificate{SerialNumber: one, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	ca.Subject.CommonName = "some authority"
	parentDER, err := x509.CreateCertificate(rand.Reader, ca, ca, by, signer)
	require.NoError(t, err)
	parent, err := x509.ParseCertificate(parentDER)
	require.NoError(t, err)
	leaf := &x509.Certificate{SerialNumber: one, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	leaf.Subject.CommonName = "some machine"
	if self {
		leaf.Subject = ca.Subject
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, public, signer)
	require.NoError(t, err)
	return der
}

// TestBadPeers is the table of bad peers, each over a real connection: refused, no byte answered, no state
// changed, and the next good peer comes through. (RELIABILITY bar 38)
func TestBadPeers(t *testing.T) {
	s := newSite(t)
	good := s.enrol("good", Full)
	revoked := s.enrol("revoked", Append)
	require.NoError(t, s.book.Revoke("revoked"))
	rotated := s.enrol("rotating", Append)
	next := fresh(t)
	require.NoError(t, s.book.Rotate(s.welcome(rotated), next.PublicKey()))
	s.welcome(next)

	authority := fresh(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	week := certificateLife

	with := func(change func(*tls.Config)) *tls.Config {
		c := ClientTLS(good, s.id.Pin())
		change(c)
		return c
	}
	for _, bad := range []struct {
		name   string
		config *tls.Config
		want   error // nil: crypto/tls has its own
	}{
		{"no certificate", with(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
		}), nil},
		{"a stranger", ClientTLS(fresh(t), s.id.Pin()), ErrUnknownPeer},
		{"another authority's certificate", showing(s, [][]byte{issued(t, fresh(t).PublicKey(), authority.PublicKey(), authority.key, false)}, authority.key), nil},
		{"a known key in another authority's certificate", showing(s, [][]byte{issued(t, good.PublicKey(), authority.PublicKey(), authority.key, false)}, good.key), ErrCertificate},
		{"a known key signed by another one of the same name", showing(s, [][]byte{issued(t, good.PublicKey(), authority.PublicKey(), authority.key, true)}, good.key), ErrCertificate},
		{"a chain", showing(s, [][]byte{selfMade(t, good.key, -week, week), selfMade(t, authority.key, -week, week)}, good.key), ErrCertificate},
		{"expired", showing(s, [][]byte{selfMade(t, good.key, -2*week, -time.Minute)}, good.key), ErrExpired},
		{"not yet valid", showing(s, [][]byte{selfMade(t, good.key, time.Minute, 2*week)}, good.key), ErrNotYetValid},
		{"RSA key", showing(s, [][]byte{issued(t, rsaKey.Public(), rsaKey.Public(), rsaKey, true)}, rsaKey), ErrCertificate},
		{"ECDSA key", showing(s, [][]byte{issued(t, ecKey.Public(), ecKey.Public(), ecKey, true)}, ecKey), ErrCertificate},
		{"the good peer's certificate without its key", showing(s, [][]byte{selfMade(t, good.key, -week, week)}, authority.key), nil},
		{"TLS 1.2", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), nil},
		{"no ALPN", with(func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }), ErrProtocol},
		{"wrong ALPN", with(func(c *tls.Config) { c.NextProtos = []string{"h2", "hikae-mover/2"} }), nil},
		{"another key exchange", with(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} }), nil},
		{"another server's pin", ClientTLS(good, fresh(t).Pin()), nil},
		{"revoked", ClientTLS(revoked, s.id.Pin()), ErrRevoked},
		{"the old key after a rotation", ClientTLS(rotated, s.id.Pin()), ErrRevoked},
	} {
		t.Run(bad.name, func(t *testing.T) {
			s.refused(bad.config, bad.want)
			s.welcome(good)
		})
	}
	r := s.book.Refusals()
	require.NotZero(t, r.Unknown)
	require.NotZero(t, r.Revoked)
	require.NotZero(t, r.Expired)
	require.NotZero(t, r.Malformed)
	require.Zero(t, r.Damaged)
}

// Tokens that are of no use any more. (RELIABILITY bar 38)
func TestBadTokens(t *testing.T) {
	s := newSite(t)
	good := s.enrol("good", Full)

	t.Run("used", func(t *testing.T) {
		token, key := s.token("used", Append)
		_, err := s.book.Enrol(s.welcome(key).Pin, fresh(t).PublicKey(), "")
		require.NoError(t, err)
		s.refused(ClientTLS(key, token.Server), ErrTokenUsed)
		before := s.bytes()
		_, err = s.book.Enrol(key.Pin(), fresh(t).PublicKey(), "")
		require.ErrorIs(t, err, ErrTokenUsed)
		require.Equal(t, before, s.bytes())
	})
	t.Run("expired", func(t *testing.T) {
		token, key := s.token("late", Append)
		later(s.book, time.Hour+time.Second)
		defer later(s.book, 0)
		s.refused(ClientTLS(key, token.Server), ErrExpired)
		_, err := s.book.Enrol(key.Pin(), fresh(t).PublicKey(), "")
		require.ErrorIs(t, err, ErrExpired)
	})
	t.Run("its name was revoked", func(t *testing.T) {
		token, key := s.token("unwanted", Append)
		s.welcome(key)
		require.NoError(t, s.book.Revoke("unwanted"))
		s.refused(ClientTLS(key, token.Server), ErrRevoked)
		_, err := s.book.Enrol(key.Pin(), fresh(t).PublicKey(), "")
		require.ErrorIs(t, err, ErrRevoked)
	})
	t.Run("its name is taken", func(t *testing.T) {
		before := s.bytes()
		for _, name := range []string{"good", "GOOD"} {
			_, err := s.book.AddToken(s.id.Pin(), name, Append, 0)
			require.ErrorIs(t, err, ErrNameTaken)
		}
		require.Equal(t, before, s.bytes())
	})
	t.Run("a peer is no token", func(t *testing.T) {
		before := s.bytes()
		_, err := s.book.Enrol(good.Pin(), fresh(t).PublicKey(), "")
		require.ErrorIs(t, err, ErrTokenUsed)
		require.Equal(t, before, s.bytes())
	})
	s.welcome(good)
	r := s.book.Refusals()
	require.NotZero(t, r.TokenUsed)
	require.NotZero(t, r.Expired)
	require.NotZero(t, r.Revoked)
}

// A refusal arrives, also where the peer has sent much that nobody will read: else the other side would see a reset, and
// could not tell a refusal from a bad line.
func TestRefusalArrives(t *testing.T) {
	s := newSite(t)
	for range 5 {
		raw, err := net.Dial("tcp", s.address)
		require.NoError(t, err)
		require.NoError(t, raw.SetDeadline(time.Now().Add(20*time.Second)))
		conn, err := Connect(t.Context(), raw, ClientTLS(fresh(t), s.id.Pin()))
		require.NoError(t, err)
		_, _ = conn.Write(make([]byte, 32<<10))
		time.Sleep(20 * time.Millisecond)
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, Explain(err), ErrRefused)
		_, err = raw.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "an end, not a reset")
		conn.Close()
		require.ErrorIs(t, (<-s.arrived).err, ErrUnknownPeer)
	}
}

// What is not negotiated cannot be negotiated down.
func TestScheme(t *testing.T) {
	id := fresh(t)
	for _, c := range []*tls.Config{ServerTLS(id, newBook(t)), ClientTLS(id, id.Pin())} {
		require.EqualValues(t, tls.VersionTLS13, c.MinVersion)
		require.EqualValues(t, tls.VersionTLS13, c.MaxVersion)
		require.Equal(t, []string{ALPN}, c.NextProtos)
		require.Equal(t, []tls.CurveID{tls.X25519MLKEM768}, c.CurvePreferences)
		require.True(t, c.SessionTicketsDisabled)
		require.Nil(t, c.ClientSessionCache)
		require.NotNil(t, c.VerifyConnection)
	}
	require.Equal(t, tls.RequireAnyClientCert, ServerTLS(id, newBook(t)).ClientAuth)
}

// A client that meets another server goes before it has shown who it is, and says both keys.
func TestWrongServer(t *testing.T) {
	s := newSite(t)
	id, other := s.enrol("site-a", Append), fresh(t)
	_, server, err := s.visit(ClientTLS(id, other.Pin()))
	require.ErrorIs(t, err, ErrWrongServer)
	require.ErrorContains(t, err, other.Pin().Short())
	require.ErrorContains(t, err, s.id.Pin().Short())
	require.Error(t, server.err)
	require.Empty(t, server.peer)
}

// A server without the protocol, or with a certificate of another shape, gets nothing from a client.
func TestBadServers(t *testing.T) {
	id, pinned := fresh(t), fresh(t)
	for name, change := range map[string]func(*tls.Config){
		"no ALPN": func(c *tls.Config) { c.NextProtos = nil },
		"expired": func(c *tls.Config) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{selfMade(t, pinned.key, -time.Hour, -time.Minute)}, PrivateKey: pinned.key}, nil
			}
		},
		"TLS 1.2": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		t.Run(name, func(t *testing.T) {
			config := scheme()
			config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pinned.certificate() }
			change(config)
			near, far := net.Pipe()
			done := make(chan []byte)
			go func() {
				server := tls.Server(far, config)
				data, _ := io.ReadAll(server)
				far.Close()
				done <- data
			}()
			_, err := Connect(t.Context(), near, ClientTLS(id, pinned.Pin()))
			require.Error(t, err)
			require.Empty(t, <-done)
		})
	}
}

// The client is told what a refusal may come from, and that it was one.
func TestExplain(t *testing.T) {
	s := newSite(t)
	err := s.refused(ClientTLS(fresh(t), s.id.Pin()), ErrUnknownPeer)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "clocks")
	require.Equal(t, err, Explain(err))
	require.NoError(t, Explain(nil))
	require.Equal(t, io.EOF, Explain(io.EOF))
}

// Certificates are renewed long before they end, and after the clock was put back.
func TestRenewal(t *testing.T) {
	id, now := fresh(t), time.Now()
	id.now = func() time.Time { return now }
	first, err := id.certificate()
	require.NoError(t, err)
	for _, step := range []time.Duration{time.Hour, 3 * 24 * time.Hour} {
		now = now.Add(step)
		again, err := id.certificate()
		require.NoError(t, err)
		require.Same(t, first, again)
	}
	for _, step := range []time.Duration{24 * time.Hour, 365 * 24 * time.Hour, -2 * 365 * 24 * time.Hour} {
		now = now.Add(step)
		renewed, err := id.certificate()
		require.NoError(t, err)
		require.NotSame(t, first, renewed)
		require.WithinDuration(t, now.Add(certificateLife), renewed.Leaf.NotAfter, time.Second)
		require.WithinDuration(t, now.Add(-certificateLife), renewed.Leaf.NotBefore, time.Second)
		first = renewed
	}
}

// A peer that connects and says nothing is let go when its time is up.
func TestSilentPeer(t *testing.T) {
	s := newSite(t)
	near, far := net.Pipe()
	defer near.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := Accept(ctx, far, ServerTLS(s.id, s.book), s.book)
	require.Error(t, err)
	_, err = near.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
