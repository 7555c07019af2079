package nfc

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
)

// Ticket is what vCenter Server or ESXi hands out for one connection: a HostServiceTicket of its API, in our words.
type Ticket struct {
	Host      string // where the service is; a bare ESXi host leaves it out, and the caller fills it in
	Port      int    // zero: 902
	Service   string // "vpxa-nfc" by way of vCenter Server, "nfc" from a bare host; without "ssl", which the client adds
	SessionID string // a secret, good for one connection
	// Thumbprint is the hash of the host's certificate in hexadecimal, with or without colons: SHA-1 as hosts publish it in
	// tickets, or SHA-256. There is no connection without one.
	Thumbprint string
}

const (
	defaultPort = 902
	// longestWord bounds what of a ticket goes into a line of the authentication daemon.
	longestWord = 256
)

// String names the place, and never the session.
func (t Ticket) String() string { return t.Service + " at " + t.addr() }

// GoString keeps the session out of %#v.
func (t Ticket) GoString() string { return "nfc.Ticket(" + t.String() + ")" }

func (t Ticket) addr() string {
	port := t.Port
	if port == 0 {
		port = defaultPort
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(port))
}

// check refuses tickets that cannot be used, and those that would put lines of their own into the daemon's dialogue.
func (t Ticket) check() (thumbprint, error) {
	switch {
	case t.Host == "" || t.Host == "*":
		return nil, fmt.Errorf("NFC: the ticket names no host: %w", fs.ErrInvalid)
	case t.Port < 0 || t.Port > 65535:
		return nil, fmt.Errorf("NFC: the ticket has port %d: %w", t.Port, fs.ErrInvalid)
	case !isWord(t.Service):
		return nil, fmt.Errorf("NFC: the ticket's service is %.40q: %w", t.Service, fs.ErrInvalid)
	case !isWord(t.SessionID):
		return nil, fmt.Errorf("NFC: the ticket's session id is no single word: %w", fs.ErrInvalid)
	}
	return parseThumbprint(t.Thumbprint)
}

func isWord(s string) bool {
	if s == "" || len(s) > longestWord {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// thumbprint is the hash of one certificate: 20 bytes of SHA-1, or 32 of SHA-256.
type thumbprint []byte

func parseThumbprint(s string) (thumbprint, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != sha1.Size && len(b) != sha256.Size {
		return nil, fmt.Errorf("NFC: the thumbprint %.100q is neither SHA-1 nor SHA-256: %w", s, fs.ErrInvalid)
	}
	return b, nil
}

// of hashes a certificate the way this thumbprint was made.
func (t thumbprint) of(cert *x509.Certificate) thumbprint {
	if len(t) == sha256.Size {
		sum := sha256.Sum256(cert.Raw)
		return sum[:]
	}
	sum := sha1.Sum(cert.Raw) // a second certificate with a given SHA-1 is out of reach; two that share one do no harm here
	return sum[:]
}

func (t thumbprint) String() string {
	parts := make([]string, len(t))
	for i, b := range t {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// tlsConfig trusts the one certificate that has the thumbprint, whoever signed it. Nothing is resumed: a resumed session
// would come without a certificate to look at.
func (t thumbprint) tlsConfig(addr, layer string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		InsecureSkipVerify:          true, // VerifyConnection decides
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // whole records from the start: this carries disks, not pages
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return &TrustError{Addr: addr, Layer: layer, Want: t.String(), Got: "no certificate"}
			}
			if got := t.of(state.PeerCertificates[0]); string(got) != string(t) {
				return &TrustError{Addr: addr, Layer: layer, Want: t.String(), Got: got.String()}
			}
			return nil
		},
	}
}
