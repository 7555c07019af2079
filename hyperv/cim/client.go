package cim

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hikae/hikae/internal/winrm"
)

// Namespaces.
const (
	Virtualization = "root/virtualization/v2"
	CIMV2          = "root/cimv2"
	Cluster        = "root/MSCluster"
)

// Login is who logs on. User is user, DOMAIN\user or user@realm; with a realm or a configuration Kerberos logs on, else NTLM.
type Login struct {
	User, Password string
	Realm          string
	Krb5Config     string   // the text of a krb5.conf
	KDCs           []string // host or host:port; empty: asked of DNS
}

// Options change how a machine is reached. Nil and zero fields are good defaults.
type Options struct {
	// RootCAs made the machine's certificate. Nil: those of this system.
	RootCAs *x509.CertPool
	// Thumbprints are the only certificates that are taken, if there are any: SHA-256, or SHA-1 as Windows shows it.
	Thumbprints []string
	// ServerName is what certificate and ticket are for, where that is not the address.
	ServerName string
	// Plain is HTTP, on port 5985, with messages that NTLM or Kerberos encrypts. A server that does not encrypt is refused.
	Plain bool
	// Certificates log on in place of a password, over TLS.
	Certificates []tls.Certificate
	// Dial opens the connection. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout bounds a call whose context has no deadline. Zero: 2 min.
	Timeout time.Duration
	// Page is how many instances are asked for at once. Zero: 100.
	Page int
	// MaxItems bounds what one query yields. Zero: 100,000.
	MaxItems int
	// MaxConns bounds the connections that are open at once. Zero: 4.
	MaxConns int
}

const (
	envelope  = 512000           // bytes: the service's own default bound
	operation = 30 * time.Second // after which the service says that it is not done
	slack     = 10 * time.Second // for the way there and back
	retries   = 3                // of what only reads
	retryWait = 200 * time.Millisecond
)

// Client asks one machine. Its methods may be called at once.
type Client struct {
	link      *winrm.Link
	to        string
	opts      Options
	operation time.Duration
	newID     func() string
}

// Dial connects and logs on.
func Dial(ctx context.Context, addr string, login Login, opts *Options) (*Client, error) {
	c := &Client{operation: operation, newID: randomID}
	if opts != nil {
		c.opts = *opts
	}
	c.opts.Timeout = or(c.opts.Timeout, 2*time.Minute)
	c.opts.Page = or(c.opts.Page, 100)
	c.opts.MaxItems = or(c.opts.MaxItems, 100_000)
	c.opts.MaxConns = or(c.opts.MaxConns, 4)
	o := &c.opts
	var err error
	c.link, err = winrm.New(addr,
		winrm.Login{User: login.User, Password: login.Password, Realm: login.Realm, Config: login.Krb5Config, KDCs: login.KDCs},
		&winrm.Options{RootCAs: o.RootCAs, Thumbprints: o.Thumbprints, ServerName: o.ServerName, Plain: o.Plain,
			Certificates: o.Certificates, MaxConns: o.MaxConns, Dial: o.Dial})
	if err != nil {
		return nil, unreachable(addr, err)
	}
	c.to = c.link.URL()
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if err := c.link.Logon(ctx); err != nil {
		return nil, unreachable(addr, err)
	}
	return c, nil
}

func or[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Close ends the connections.
func (c *Client) Close() error { return c.link.Close() }

func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, c.opts.Timeout, fmt.Errorf("no end within %v: %w", c.opts.Timeout, context.DeadlineExceeded))
}

// ReachError says why a machine could not be reached, and what a person can do about it.
type ReachError struct {
	Addr string
	Step string // resolve, connect, certificate, login, rights, link
	Hint string // empty where there is none
	Err  error
}

func (e *ReachError) Error() string { return e.Addr + ": " + e.Step + ": " + e.Err.Error() }
func (e *ReachError) Unwrap() error { return e.Err }

func unreachable(addr string, err error) error {
	var e *winrm.Error
	if errors.As(err, &e) {
		return &ReachError{Addr: addr, Step: e.Step, Hint: e.Hint, Err: err}
	}
	return &ReachError{Addr: addr, Step: "link", Err: err}
}

// exchange sends a message and reads the answer's body, or its fault.
func (c *Client) exchange(ctx context.Context, m *message) (*node, error) {
	m.to, m.id, m.timeout = c.to, c.newID(), or(m.atMost, c.operation)
	if at, ok := ctx.Deadline(); ok {
		m.timeout = max(time.Second, min(m.timeout, time.Until(at)-time.Second))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout+slack, &SilentError{m.timeout + slack})
	defer cancel()
	b, err := c.link.Post(ctx, m.bytes())
	if err != nil {
		return nil, err
	}
	return readAnswer(b, m.id)
}

// SilentError says that the machine answered nothing, not even that it needs more time.
type SilentError struct{ After time.Duration }

func (e *SilentError) Error() string { return fmt.Sprintf("no answer within %v", e.After) }

// Timeout tells those who ask for it, as with errors of package net.
func (e *SilentError) Timeout() bool { return true }

// read makes an exchange that may be made again: the link broke, or the service is busy.
func (c *Client) read(ctx context.Context, m *message) (body *node, err error) {
	for try := range retries {
		if try > 0 {
			if err := pause(ctx, retryWait<<try); err != nil {
				return nil, err
			}
		}
		if body, err = c.exchange(ctx, m); err == nil || ctx.Err() != nil || !again(err) {
			return body, err
		}
	}
	return nil, err
}

func again(err error) bool {
	var link *winrm.Error
	var silent *SilentError
	switch {
	case errors.As(err, &silent), errors.Is(err, winrm.ErrHuge):
		return false
	case errors.As(err, &link):
		return link.Step == "link" || link.Step == "connect"
	}
	return errors.Is(err, ErrTimedOut) || errors.Is(err, ErrBusy)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Get reads one instance.
func (c *Client) Get(ctx context.Context, r Ref) (*Instance, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	body, err := c.read(ctx, &message{action: actionGet, resource: r.resource(), selectors: r.Keys})
	if err != nil {
		return nil, about("Get", r.String(), err)
	}
	in, err := instanceIn(body)
	if err != nil {
		return nil, about("Get", r.String(), err)
	}
	in.Ref = r
	return in, nil
}

// Put replaces properties of one instance, and returns it as it is then. Those not named stay as they are where the
// provider knows how; a caller who is not sure gets the instance first and changes that.
func (c *Client) Put(ctx context.Context, r Ref, in *Instance) (*Instance, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	m := &message{action: actionPut, resource: r.resource(), selectors: r.Keys}
	if err := m.properties(in.Class, in.Properties); err != nil {
		return nil, about("Put", r.String(), err)
	}
	body, err := c.exchange(ctx, m)
	if err != nil {
		return nil, about("Put", r.String(), unknown(err))
	}
	got, err := instanceIn(body)
	if err != nil {
		return nil, about("Put", r.String(), err)
	}
	got.Ref = r
	return got, nil
}

// OpError names what was asked of which object. It is an element of every error of a Client but those of Dial.
type OpError struct {
	Op     string // Get, Put, Query, or a method's name
	Object string // a path or a query
	Err    error
}

func (e *OpError) Error() string { return e.Op + " " + e.Object + ": " + e.Err.Error() }
func (e *OpError) Unwrap() error { return e.Err }

func about(op, object string, err error) error {
	const most = 400
	if len(object) > most {
		object = object[:most] + "…"
	}
	return &OpError{Op: op, Object: object, Err: err}
}
