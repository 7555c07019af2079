package winrm

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Login is who logs on. User is user, DOMAIN\user or user@realm; with a realm or a configuration Kerberos logs on.
type Login struct {
	User, Password string
	Realm          string
	Config         string // the text of a krb5.conf
	KDCs           []string
	KerberosOnly   bool
}

// Options change how a machine is reached. Nil and zero fields are good defaults.
type Options struct {
	RootCAs      *x509.CertPool    // nil: those of this machine
	Thumbprints  []string          // the only certificates that are taken, if there are any: SHA-256 or SHA-1 in hexadecimal digits
	ServerName   string            // what the certificate and the ticket are for. Empty: the address
	Plain        bool              // HTTP with encrypted messages
	Basic        bool              // a password in each request, over TLS
	Certificates []tls.Certificate // log on in place of a password, over TLS
	MaxConns     int               // zero: 16
	MaxAnswer    int64             // bytes, with its head. Zero: 1 MiB
	Dial         func(ctx context.Context, network, addr string) (net.Conn, error)
}

type method int

const (
	byNTLM method = iota
	byBasic
	byCertificate
	byKerberos
)

// Link is a way to send messages to one machine. Its methods may be called at once.
type Link struct {
	addr, host, url string
	login           Login
	opts            Options
	tls             *tls.Config
	method          method
	ticket          func(ctx context.Context) (ticket, error)
	places          chan struct{}

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

// What a Link is refused for, or says when it is closed.
var (
	ErrClosed     = errors.New("the link is closed")
	errThumbprint = errors.New("the certificate's thumbprint is another one")
	errPlain      = errors.New("without TLS only NTLM and Kerberos encrypt messages")
	errAddress    = errors.New("Kerberos knows machines by name, and this one was given by its address") //lint:ignore ST1005 a name
)

// New sets a link up; nothing is connected yet. Addr is HOST or HOST:PORT.
func New(addr string, login Login, opts *Options) (*Link, error) {
	l := &Link{addr: addr, login: login}
	if opts != nil {
		l.opts = *opts
	}
	l.defaults()
	l.host, _, _ = net.SplitHostPort(l.addr)
	scheme := "http"
	if !l.opts.Plain {
		scheme, l.tls = "https", tlsConfig(l.host, &l.opts)
	}
	l.url = scheme + "://" + l.addr + "/wsman"
	l.ticket = l.fetchTicket
	return l, l.choose()
}

func (l *Link) defaults() {
	port := "5986"
	if l.opts.Plain {
		port = "5985"
	}
	if _, _, err := net.SplitHostPort(l.addr); err != nil {
		l.addr = net.JoinHostPort(strings.Trim(l.addr, "[]"), port)
	}
	if l.opts.Dial == nil {
		l.opts.Dial = (&net.Dialer{}).DialContext
	}
	if l.opts.MaxConns <= 0 {
		l.opts.MaxConns = 16
	}
	if l.opts.MaxAnswer <= 0 {
		l.opts.MaxAnswer = defaultMax
	}
	l.places = make(chan struct{}, l.opts.MaxConns)
}

// choose says how to log on.
func (l *Link) choose() error {
	switch {
	case len(l.opts.Certificates) > 0:
		l.method = byCertificate
	case l.opts.Basic:
		l.method = byBasic
	case l.login.KerberosOnly || l.login.Realm != "" || l.login.Config != "":
		l.method = byKerberos
	}
	switch {
	case l.opts.Plain && l.method != byNTLM && l.method != byKerberos:
		return wrong("login", "use TLS on port 5986", errPlain)
	case l.method == byKerberos && l.opts.ServerName == "" && net.ParseIP(l.host) != nil:
		return wrong("login", "give the machine by its name", errAddress)
	}
	return nil
}

// URL is the service's, as messages name it.
func (l *Link) URL() string { return l.url }

// Logon connects and logs on, so that a closed way is told from a service that fails.
func (l *Link) Logon(ctx context.Context) error {
	c, err := l.dial(ctx)
	if err != nil {
		return l.cut(err, false)
	}
	l.put(c)
	return nil
}

// Post sends a message and returns the answer, which may tell of a failure. A server that no longer knows a connection's
// logon has not read the message: it goes again, over a new connection.
func (l *Link) Post(ctx context.Context, message []byte) ([]byte, error) {
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
	old := c.old
	answer, err := c.post(ctx, message)
	var status *StatusError
	if old && errors.As(err, &status) && status.Status == http.StatusUnauthorized {
		c.Close()
		if c, err = l.dial(ctx); err != nil {
			return nil, l.cut(err, false)
		}
		answer, err = c.post(ctx, message)
	}
	if err != nil {
		c.Close()
		return nil, l.cut(err, true)
	}
	l.put(c)
	return answer, nil
}

func (l *Link) take(ctx context.Context) (*conn, error) {
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
		return nil, ErrClosed
	}
	c, err := l.dial(ctx)
	if err != nil {
		return nil, l.cut(err, false)
	}
	return c, nil
}

func (l *Link) put(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !c.fresh() {
		c.Close()
		return
	}
	c.old = true
	l.idle = append(l.idle, c)
}

// Close ends the idle connections; those in use end with their exchange.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.idle {
		c.Close()
	}
	l.idle = nil
	return nil
}

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
