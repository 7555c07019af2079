package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// ALPN is the movers' protocol's name in the handshake (RFC 7301). A peer that offers no name that is served is refused.
const ALPN = "hikae-mover/1"

// scheme is what both sides share: TLS 1.3 alone, no tickets (so no resumption and no early data), the protocols that are
// named, and one key exchange, which a recording of today does not give away to a quantum computer of tomorrow.
func scheme(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             orALPN(protocols),
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		SessionTicketsDisabled: true,
	}
}

// orALPN is [ALPN] where no protocol is named.
func orALPN(protocols []string) []string {
	if len(protocols) == 0 {
		return []string{ALPN}
	}
	return slices.Clone(protocols)
}

// ServerTLS lets in who stands in the book when the handshake is made, and nobody else. The one scheme: TLS 1.3, key
// exchange X25519MLKEM768, one of the protocols by ALPN, on each side one certificate, signed by its own Ed25519 key and
// valid now; no resumption. Use it through [Accept], which also says who came.
//
// Without protocols it is [ALPN]. Where there are several, the connection's state says which one a peer has come for,
// and whoever serves that one looks at the peer's role.
func ServerTLS(id *Identity, book *Book, protocols ...string) *tls.Config {
	c := scheme(protocols...)
	served := c.NextProtos
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.certificate() }
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := book.judge(&cs, served)
		return err
	}
	return c
}

// ClientTLS talks to the server with that pin and to no other, in that protocol or, without one, [ALPN]. The server's name
// and address mean nothing. Where the server refuses us, the first read fails: see [Explain].
func ClientTLS(id *Identity, server Pin, protocol ...string) *tls.Config {
	c := scheme(protocol...)
	spoken := c.NextProtos
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.certificate() }
	// Chains and names are not verified, for there are none; VerifyConnection takes their place and always runs.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		pin, err := judge(&cs, spoken, id.now())
		if err == nil && !pin.equal(server) {
			err = &PeerError{Pin: pin, Err: ErrWrongServer, Hint: fmt.Sprintf(
				"it has key %s, and %s was written down: was it set up anew? or does somebody else answer at this address?", pin.Short(), server.Short())}
		}
		return err
	}
	return c
}

// judge finds the peer of a connection.
func (b *Book) judge(cs *tls.ConnectionState, protocols []string) (Peer, error) {
	pin, err := judge(cs, protocols, b.now())
	if err != nil {
		b.count(err)
		return Peer{}, err
	}
	return b.Find(pin)
}

// PeerOf is the peer at the other end of a connection whose handshake is done, as the book has it now. It ends a
// rotation: where the peer used its new key, the old one is taken out of the book. If that cannot be written just then, the
// old one stays good until the next connection. protocols are those of [ServerTLS].
func PeerOf(conn *tls.Conn, book *Book, protocols ...string) (Peer, error) {
	cs := conn.ConnectionState()
	if !cs.HandshakeComplete {
		return Peer{}, &PeerError{Err: ErrProtocol, Hint: "the handshake is not done"}
	}
	peer, err := book.judge(&cs, orALPN(protocols))
	if err != nil {
		return Peer{}, err
	}
	if peer.Pin == peer.Next {
		return book.settle(peer)
	}
	return peer, nil
}

// How long a handshake may take, and how long a peer that was refused gets to take the alert.
const (
	handshakeTime = 10 * time.Second
	farewellTime  = time.Second
	farewellBytes = 64 << 10
)

// Accept makes the handshake on a connection that came in, in 10 s at most, and says who came. On an error the
// connection is closed, and nothing but the handshake and an alert was sent on it. config is one of [ServerTLS] with the
// same book.
func Accept(ctx context.Context, raw net.Conn, config *tls.Config, book *Book) (*tls.Conn, Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn := tls.Server(raw, config)
	err := conn.HandshakeContext(ctx)
	peer := Peer{}
	if err == nil {
		peer, err = PeerOf(conn, book, config.NextProtos...)
	}
	if err != nil {
		if !errors.As(err, new(*PeerError)) {
			book.count(err) // the others have been counted
		}
		farewell(ctx, raw)
		return nil, Peer{}, err
	}
	return conn, peer, nil
}

// farewell closes a connection so that an alert on it arrives. A socket that is closed while there is something to read
// is reset, and a reset may overtake what was sent.
func farewell(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || ctx.Err() != nil || half.CloseWrite() != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	_ = raw.SetReadDeadline(time.Now().Add(farewellTime))
	_, _ = io.CopyN(io.Discard, raw, farewellBytes)
}

// Connect makes the client's part of the handshake, in 10 s at most. On an error the connection is closed. On nil the
// server is the right one; whether it takes us shows at the first read.
func Connect(ctx context.Context, raw net.Conn, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(Explain(err), ignoreClosed(raw.Close()))
	}
	return conn, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
