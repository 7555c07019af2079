package vmware

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"
)

const (
	dialTimeout = 15 * time.Second // to reach a server, and as much again for its handshake
	maxCAFile   = 8 << 20
)

// ThumbprintError says that a server showed another certificate than the one that was named.
type ThumbprintError struct {
	Address   string // host:port
	Want, Got string
}

func (e *ThumbprintError) Error() string {
	return fmt.Sprintf("%s shows a certificate with the thumbprint %s, not %s", e.Address, e.Got, e.Want)
}

// UntrustedError says that nobody who is trusted vouches for a server's certificate. Thumbprint is that certificate's, by
// SHA-256: who knows from elsewhere that it is right, names it in [ConnectOptions].
type UntrustedError struct {
	Address    string // host:port
	Thumbprint string
	Err        error
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("the certificate of %s is not trusted: %v (if its SHA-256 thumbprint is right, name it: %s)", e.Address, e.Err, e.Thumbprint)
}

func (e *UntrustedError) Unwrap() error { return e.Err }

// parseThumbprint reads the digest of a certificate, of SHA-256 or SHA-1, in hexadecimal with or without colons.
func parseThumbprint(text string) ([]byte, error) {
	if len(text) > 3*sha256.Size {
		return nil, fmt.Errorf("thumbprint: %w: it is longer than one of SHA-256", fs.ErrInvalid)
	}
	digest, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(digest) != sha256.Size && len(digest) != sha1.Size {
		return nil, fmt.Errorf("thumbprint %q: %w: it has neither the 64 digits of SHA-256 nor the 40 of SHA-1", text, fs.ErrInvalid)
	}
	return digest, nil
}

// thumbprintOf is the digest of a certificate by SHA-256 or, where the size says so, by SHA-1. The latter is good for nothing
// but to know again what an old host, or a vCenter for its hosts, calls a certificate.
func thumbprintOf(cert *x509.Certificate, size int) []byte {
	if size == sha1.Size {
		digest := sha1.Sum(cert.Raw)
		return digest[:]
	}
	digest := sha256.Sum256(cert.Raw)
	return digest[:]
}

// trust decides at each handshake whom a connection leads to. It stands in for the dialer of the client library, which takes
// any trusted certificate where a thumbprint was named, compares thumbprints as text, and leaves the check out behind a proxy.
// For that reason no proxy is used either.
type trust struct {
	server string // host:port of the one that the options are about
	pin    []byte // its thumbprint; empty: certificates are verified
	roots  *x509.CertPool
	// told is the thumbprint of another address, as the server itself told it: in a lease or a ticket. Empty: none.
	told func(address string) string
}

func newTrust(server string, opts *ConnectOptions) (*trust, error) {
	t := &trust{server: withPort(server), told: func(string) string { return "" }}
	if opts.Thumbprint != "" {
		pin, err := parseThumbprint(opts.Thumbprint)
		if err != nil {
			return nil, err
		}
		t.pin = pin
	}
	if opts.CAFile == "" {
		return t, nil
	}
	roots, err := rootsWith(opts.CAFile)
	t.roots = roots
	return t, err
}

// rootsWith are the system's roots and those of a file.
func rootsWith(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if len(pem) > maxCAFile || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %w: it is no file of certificates in PEM", path, fs.ErrInvalid)
	}
	return roots, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return strings.ToLower(host)
	}
	return strings.ToLower(net.JoinHostPort(strings.Trim(host, "[]"), "443"))
}

// dial connects and shakes hands. Nothing is sent to whom is not trusted.
func (t *trust) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn := tls.Client(raw, t.config(address))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, explainTLS(address, err)
	}
	return conn, nil
}

func (t *trust) config(address string) *tls.Config {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	config := &tls.Config{ServerName: host, RootCAs: t.roots, MinVersion: tls.VersionTLS12}
	pin, must := t.pin, true
	if withPort(address) != t.server {
		// A thumbprint that is not one, as of an empty lease, vouches for nothing.
		pin, _ = parseThumbprint(t.told(address))
		must = false
	}
	if len(pin) == 0 {
		return config
	}
	// What the library would verify is verified here instead, for each connection, resumed ones too.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(cs tls.ConnectionState) error { return t.verify(cs, address, host, pin, must) }
	return config
}

// verify holds a connection against a thumbprint. Where it need not match, a trusted certificate does as well: a host's is
// renewed before its vCenter tells.
func (t *trust) verify(cs tls.ConnectionState, address, host string, pin []byte, must bool) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%s shows no certificate", address)
	}
	leaf := cs.PeerCertificates[0]
	got := thumbprintOf(leaf, len(pin))
	if bytes.Equal(got, pin) {
		return nil
	}
	if !must {
		others := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			others.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: t.roots, Intermediates: others}); err == nil {
			return nil
		}
	}
	return &ThumbprintError{Address: address, Want: colons(pin), Got: colons(got)}
}

func explainTLS(address string, err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) && len(bad.UnverifiedCertificates) > 0 {
		return &UntrustedError{Address: address, Thumbprint: colons(thumbprintOf(bad.UnverifiedCertificates[0], sha256.Size)), Err: bad.Err}
	}
	var op *net.OpError
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.As(err, &op) && op.Op != "remote error" && op.Op != "local error" {
		// Whatever was to be sent has not been: it is as if nobody had been there.
		return &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: shake hands: %w", address, err)}
	}
	return fmt.Errorf("%s: %w", address, err)
}

func colons(digest []byte) string {
	parts := make([]string, len(digest))
	for i, b := range digest {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}
