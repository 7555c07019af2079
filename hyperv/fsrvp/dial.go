package fsrvp

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	agent "github.com/oiweiwei/go-msrpc/msrpc/fsrvp/fileservervssagent/v1"
	"github.com/oiweiwei/go-msrpc/smb2"
	"github.com/oiweiwei/go-msrpc/ssp"
	"github.com/oiweiwei/go-msrpc/ssp/credential"
	"github.com/oiweiwei/go-msrpc/ssp/gssapi"
	"github.com/rs/zerolog"

	"github.com/hikae/hikae/internal/kerberos"
	"github.com/hikae/hikae/internal/smbwire"
)

// Login is who logs on, by NTLM.
type Login struct {
	User, Password string // user, or DOMAIN\user
}

// Options change how a server is spoken to. Nil and zero fields are good defaults.
type Options struct {
	// Address is where a server is reached: HOST or HOST:PORT. Nil: by its name, at port 445.
	Address func(server string) string
	// CallTimeout bounds calls that answer at once. Zero: 30 s. CommitTimeout bounds those that make a set: the server is told it
	// too. Zero: 5 min.
	CallTimeout, CommitTimeout time.Duration
	// TurnTimeout is how long to wait for another set to be made: a server makes one at a time. Zero: 4 min, in which it has given up
	// one whose session died while it was begun.
	TurnTimeout time.Duration
	// Dial opens the connection. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.CallTimeout <= 0 {
		out.CallTimeout = 30 * time.Second
	}
	if out.CommitTimeout <= 0 {
		out.CommitTimeout = 5 * time.Minute
	}
	if out.TurnTimeout <= 0 {
		out.TurnTimeout = 4 * time.Minute
	}
	if out.Dial == nil {
		out.Dial = (&net.Dialer{Timeout: 20 * time.Second}).DialContext
	}
	return out
}

// at is host and port of a server.
func (o *Options) at(server string) (host string, port int, err error) {
	addr := server
	if o.Address != nil {
		addr = o.Address(server)
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, 445, nil
	}
	n, err := strconv.ParseUint(service, 10, 16)
	return host, int(n), err
}

// Conn is a connection to the agent of one file server. It makes one set at a time; its methods may be called at once and wait for
// each other.
type Conn struct {
	server string
	opts   Options

	mu    sync.Mutex
	line  *smbwire.Line
	rpc   dcerpc.Conn
	agent agent.FileServerVSSAgentClient
}

// Dial connects and logs on to a server.
func Dial(ctx context.Context, server string, who Login, opts *Options) (*Conn, error) {
	c := &Conn{server: server, opts: opts.withDefaults()}
	host, port, err := c.opts.at(server)
	if err != nil {
		return nil, &ReachError{server, "connect", err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.CallTimeout, fmt.Errorf("no answer within %v: %w", c.opts.CallTimeout, context.DeadlineExceeded))
	defer cancel()
	tcp, err := c.opts.Dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, &ReachError{server, "connect", err}
	}
	c.line = smbwire.NewLine(tcp, c.opts.CommitTimeout+c.opts.CallTimeout)
	// The library reads answers for as long as the context lives that it was given here.
	if _, err := c.line.Run(ctx, func() error { return c.logOn(c.line.Done(), host, port, who) }); err != nil {
		c.line.Kill()
		return nil, &ReachError{server, "login", err}
	}
	return c, nil
}

// oneLine hands out the connection that was made, once: the library asks for it by an address that it resolved itself.
type oneLine struct {
	net.Conn
	taken sync.Once
}

func (d *oneLine) DialContext(context.Context, string, string) (conn net.Conn, err error) {
	err = net.ErrClosed
	d.taken.Do(func() { conn, err = d.Conn, nil })
	return conn, err
}

// logOn logs on to the connection and, once more, to the agent: the protocol demands that calls are protected themselves.
func (c *Conn) logOn(ctx context.Context, host string, port int, who Login) error {
	domain, user := kerberos.Split(who.User)
	var more []credential.Option
	if domain != "" {
		more = append(more, credential.Domain(domain))
	}
	cred := credential.NewFromPassword(user, who.Password, more...)
	secure := []gssapi.ContextOption{gssapi.WithCredential(cred), gssapi.WithMechanismFactory(ssp.SPNEGO), gssapi.WithMechanismFactory(ssp.NTLM),
		gssapi.WithTargetName("cifs/" + c.server)}
	ctx = gssapi.NewSecurityContext(ctx, secure...)
	rpc, err := dcerpc.Dial(ctx, host,
		dcerpc.WithLogger(zerolog.Nop()), dcerpc.WithSMBPort(port), dcerpc.WithDialer(&oneLine{Conn: c.line}), dcerpc.WithTimeout(c.opts.CallTimeout),
		dcerpc.WithSMBDialer(smb2.NewDialer(smb2.WithSign(), smb2.WithSecurity(secure...))),
		dcerpc.WithEndpoint(`ncacn_np:[FssagentRpc]`))
	if err != nil {
		return err
	}
	c.rpc = rpc
	c.agent, err = agent.NewFileServerVSSAgentClient(ctx, rpc, dcerpc.WithSeal(), dcerpc.WithTargetName("cifs/"+c.server))
	return err
}

// Close ends the connection. A set that was not taken to its end is given up by the server.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rpc != nil && !c.line.Dead() {
		ctx, cancel := context.WithTimeout(context.Background(), smbwire.Grace)
		defer cancel()
		_, _ = c.line.Run(ctx, func() error { return c.rpc.Close(ctx) })
	}
	c.line.Kill()
	return nil
}
