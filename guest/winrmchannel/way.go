package winrmchannel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"

	"github.com/hikae/hikae/guest"
)

// Options change how a guest is reached. Nil and zero fields are good defaults.
type Options struct {
	// RootCAs made the guest's certificate. Nil: those of this machine.
	RootCAs *x509.CertPool
	// Thumbprints are the only certificates that are taken, if there are any: SHA-256, or SHA-1 as Windows shows it, in
	// hexadecimal digits.
	Thumbprints []string
	// ServerName is what the certificate is for, where that is not the address.
	ServerName string
	// Plain is HTTP, on port 5985, with messages that NTLM encrypts. A server that does not encrypt is refused.
	Plain bool
	// Basic logs on by a password in each request, over TLS. Otherwise NTLM does, or Kerberos where the credential has a
	// realm.
	Basic bool
	// Certificates log on in place of a password, over TLS.
	Certificates []tls.Certificate
	// Temp are folders of the guest that are tried for the component before the usual one.
	Temp []string
	// Dial opens the connection, for those who reach guests through something. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Way is WinRM to one guest. It implements [guest.Way].
type Way struct {
	addr string
	cred guest.Credential
	opts Options
}

// New sets a way up; nothing is connected yet. Addr is HOST or HOST:PORT.
func New(addr string, cred guest.Credential, opts *Options) *Way {
	w := &Way{addr: addr, cred: cred}
	if opts != nil {
		w.opts = *opts
	}
	return w
}

// Kind implements [guest.Way].
func (w *Way) Kind() guest.Kind { return guest.WinRM }

// Probe implements [guest.Way].
func (w *Way) Probe(ctx context.Context) guest.Finding { return guest.ProbeByOpening(ctx, w) }

// Open implements [guest.Way].
func (w *Way) Open(ctx context.Context) (guest.Channel, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	l, err := newLink(w)
	if err != nil {
		return nil, err
	}
	// Logging on before any script runs tells a closed way from a guest that cannot run scripts.
	if err := l.over.Logon(ctx); err != nil {
		return nil, l.worded(err)
	}
	over, err := guest.Over(ctx, guest.WinRM, l, &guest.OverOptions{OS: "windows", Temp: w.opts.Temp})
	if err != nil {
		l.Close()
		return nil, err
	}
	return &channel{Channel: over, link: l}, nil
}
