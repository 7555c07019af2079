package winrmchannel

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/wsman"
)

// maxConns bounds the connections to one guest: each program that runs has one waiting for its output.
const maxConns = 16

type method int

const (
	byNTLM method = iota
	byBasic
	byCertificate
	byKerberos
)

// link is a way to send messages to one guest.
type link struct {
	addr, host, url string
	cred            guest.Credential
	opts            Options
	tls             *tls.Config
	method          method
	requests        wsman.Requests
	places          chan struct{}

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

var errClosed = errors.New("the channel is closed")

// post sends a message and returns the answer. A *wsman.Fault is what a later reader of the answer finds.
func (l *link) post(ctx context.Context, message []byte) ([]byte, error) {
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c, err := l.take(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := c.post(ctx, message)
	if err != nil {
		c.Close()
		return nil, l.cut(err)
	}
	l.put(c)
	return answer, nil
}

func (l *link) take(ctx context.Context) (*conn, error) {
	l.mu.Lock()
	closed := l.closed
	for n := len(l.idle); n > 0; n-- {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		if c.fresh() {
			l.mu.Unlock()
			return c, nil
		}
		c.Close()
	}
	l.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	return l.dial(ctx)
}

func (l *link) put(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !c.fresh() {
		c.Close()
		return
	}
	l.idle = append(l.idle, c)
}

// Close implements [hikae.GuestChannel].
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.idle {
		c.Close()
	}
	l.idle = nil
	return nil
}

var errThumbprint = errors.New("the certificate's thumbprint is another one")

// tlsConfig trusts authorities, or thumbprints alone where there are any.
func tlsConfig(host string, o *Options) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: o.RootCAs, Certificates: o.Certificates}
	if o.ServerName != "" {
		t.ServerName = o.ServerName
	}
	if len(o.Thumbprints) == 0 {
		return t
	}
	t.InsecureSkipVerify = true // what follows stands in its place
	t.VerifyConnection = func(s tls.ConnectionState) error {
		raw := s.PeerCertificates[0].Raw
		long, short := sha256.Sum256(raw), sha1.Sum(raw)
		for _, want := range o.Thumbprints {
			want = strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(want))
			if want == hex.EncodeToString(long[:]) || want == hex.EncodeToString(short[:]) {
				return nil
			}
		}
		return errThumbprint
	}
	return t
}

func newLink(w *Way) (*link, error) {
	l := &link{addr: w.addr, cred: w.cred, opts: w.opts, places: make(chan struct{}, maxConns)}
	l.host, _, _ = net.SplitHostPort(w.addr)
	scheme := "https"
	if w.opts.Plain {
		scheme = "http"
	} else {
		l.tls = tlsConfig(l.host, &w.opts)
	}
	l.url = scheme + "://" + w.addr + "/wsman"
	l.requests = wsman.Requests{URL: l.url, Envelope: envelope, Timeout: operation}
	return l, l.choose()
}

var (
	errPlain   = errors.New("without TLS only NTLM encrypts its messages")
	errManaged = errors.New("a group managed service account can be used only by a proxy on Windows in its domain")
	errAddress = errors.New("Kerberos knows machines by name, and the guest was given by its address") //lint:ignore ST1005 a name
)

// choose says how to log on.
func (l *link) choose() error {
	c := l.cred
	switch {
	case len(l.opts.Certificates) > 0:
		l.method = byCertificate
	case l.opts.Basic:
		l.method = byBasic
	case c.KerberosOnly || c.Realm != "" || c.Config != "":
		l.method = byKerberos
	}
	hint := "use TLS on port 5986"
	switch {
	case l.opts.Plain && l.method != byNTLM:
		return l.wrong("login", hint, errPlain)
	case c.ManagedAccount:
		return l.wrong("login", "let a proxy reach this guest, or give another account", errManaged)
	case l.method == byKerberos && net.ParseIP(l.host) != nil:
		return l.wrong("login", "give the guest by its name", errAddress)
	}
	return nil
}

// Times of the protocol.
const (
	envelope  = 153600 // bytes; what every server takes
	operation = 20 * time.Second
	shellIdle = 3 * time.Minute
)
