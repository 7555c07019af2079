package dcom

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	activation "github.com/oiweiwei/go-msrpc/msrpc/dcom/iactivation/v0"
	remunknown "github.com/oiweiwei/go-msrpc/msrpc/dcom/iremunknown/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	enumerator "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	level1 "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemlevel1login/v0"
	services "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/ssp"
	"github.com/oiweiwei/go-msrpc/ssp/credential"
	"github.com/oiweiwei/go-msrpc/ssp/gssapi"
	"github.com/rs/zerolog"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/internal/kerberos"
)

// Options change how a machine is reached. Nil and zero fields are good defaults.
type Options struct {
	// Dial opens a connection. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout bounds a call whose context has no deadline. Zero: 2 min.
	Timeout time.Duration
	// Logon bounds the making of a connection. Zero: 30 s.
	Logon time.Duration
	// Page is how many instances are asked for at once. Zero: 50.
	Page int
	// MaxItems bounds what one query yields. Zero: 100,000.
	MaxItems int
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Dial == nil {
		out.Dial = (&net.Dialer{}).DialContext
	}
	if out.Timeout <= 0 {
		out.Timeout = 2 * time.Minute
	}
	if out.Logon <= 0 {
		out.Logon = 30 * time.Second
	}
	if out.Page <= 0 {
		out.Page = 50
	}
	if out.MaxItems <= 0 {
		out.MaxItems = 100_000
	}
	return out
}

const (
	mapperPort = "135"
	protoTCP   = 7 // MS-DCOM 2.2.10
)

// Route is what hyperv.Options.Route takes.
func Route(opts *Options) func(ctx context.Context, addr string, login cim.Login) (cim.Caller, error) {
	return func(ctx context.Context, addr string, login cim.Login) (cim.Caller, error) {
		return Dial(ctx, addr, login, opts)
	}
}

// Dial connects and logs on. Addr is HOST or HOST:PORT, of the endpoint mapper. Errors are *cim.ReachError.
func Dial(ctx context.Context, addr string, login cim.Login, opts *Options) (cim.Caller, error) {
	c := &client{addr: addr, login: login, opts: opts.withDefaults(), turn: make(chan struct{}, 1)}
	c.connect = c.logOn
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), mapperPort
	}
	c.host, c.port = host, port
	if login.Realm != "" || login.Krb5Config != "" || len(login.KDCs) > 0 {
		return nil, &cim.ReachError{Addr: addr, Step: "login", Hint: "use the other transport for Kerberos",
			Err: fmt.Errorf("kerberos over DCOM: %w", errors.ErrUnsupported)}
	}
	if err := c.do(ctx, func(context.Context, *session) error { return nil }); err != nil {
		return nil, err
	}
	return cim.Complete(c), nil
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

// open makes a connection to one of the host's ports.
func (c *client) open(ctx context.Context, port string) (*line, error) {
	tcp, err := c.opts.Dial(ctx, "tcp", net.JoinHostPort(c.host, port))
	if err != nil {
		return nil, err
	}
	return newLine(tcp), nil
}

func (c *client) rpc(ctx context.Context, l *line, port string) (context.Context, dcerpc.Conn, error) {
	domain, user := kerberos.Split(c.login.User)
	var more []credential.Option
	if domain != "" {
		more = append(more, credential.Domain(domain))
	}
	ctx = gssapi.NewSecurityContext(ctx, gssapi.WithCredential(credential.NewFromPassword(user, c.login.Password, more...)),
		gssapi.WithMechanismFactory(ssp.SPNEGO), gssapi.WithMechanismFactory(ssp.NTLM), gssapi.WithTargetName(c.target()))
	// The address is not used: the connection is there. A name would be resolved.
	conn, err := dcerpc.Dial(ctx, "127.0.0.1", dcerpc.WithLogger(zerolog.Nop()), dcerpc.WithDialer(&oneLine{Conn: l}),
		dcerpc.WithTimeout(c.opts.Logon), dcerpc.WithEndpoint("ncacn_ip_tcp:["+port+"]"))
	return ctx, conn, err
}

func (c *client) target() string { return "RPCSS/" + c.host }

// logOn activates WMI and logs on to it: MS-DCOM 3.1.2.5.2.3.1, MS-WMI 3.1.4.1.
func (c *client) logOn(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.Logon, fmt.Errorf("no logon within %v: %w", c.opts.Logon, context.DeadlineExceeded))
	defer cancel()
	reach := func(step string, err error) error {
		return &cim.ReachError{Addr: c.addr, Step: step, Err: settle(0, false, err)}
	}
	front, err := c.open(ctx, c.port)
	if err != nil {
		return nil, reach("connect", err)
	}
	defer front.kill()
	var s session
	var port string
	if err := front.run(ctx, func(ctx context.Context) (err error) { port, err = c.activate(ctx, front, &s); return err }); err != nil {
		return nil, reach("login", err)
	}
	if s.line, err = c.open(ctx, port); err != nil {
		return nil, reach("connect", err)
	}
	if err := s.line.run(ctx, func(ctx context.Context) error { return c.bind(ctx, port, &s) }); err != nil {
		s.line.kill()
		return nil, reach("login", err)
	}
	s.begin()
	return &s, nil
}

// activate asks the machine for WMI, and learns the port that it is reached at.
func (c *client) activate(ctx context.Context, l *line, s *session) (port string, err error) {
	ctx, conn, err := c.rpc(ctx, l, c.port)
	if err != nil {
		return "", err
	}
	mapper, err := activation.NewActivationClient(ctx, conn, dcerpc.WithSeal(), dcerpc.WithTargetName(c.target()))
	if err != nil {
		return "", err
	}
	s.version = &dcom.COMVersion{MajorVersion: 5, MinorVersion: 7}
	got, err := mapper.RemoteActivation(ctx, &activation.RemoteActivationRequest{ORPCThis: s.this(), ClassID: wmi.Level1LoginClassID.GUID(),
		IIDs: []*dcom.IID{level1.Level1LoginIID}, RequestedProtocolSequences: []uint16{protoTCP}})
	if err != nil {
		return "", err
	}
	if got.HResult != 0 {
		return "", fault(got.HResult, errors.New("WMI could not be activated"))
	}
	if len(got.InterfaceData) != 1 || got.RemoteUnknown == nil || got.OXIDBindings == nil {
		return "", malformed("an activation without an object")
	}
	if v := got.ServerVersion; v != nil && v.MajorVersion == 5 && v.MinorVersion < s.version.MinorVersion {
		s.version = v
	}
	s.login, s.unknownAt = got.InterfaceData[0].IPID(), got.RemoteUnknown
	for _, b := range got.OXIDBindings.GetStringBindings() {
		if p := portOf(b.NetworkAddr); b.TowerID == protoTCP && p != "" {
			return p, nil
		}
	}
	return "", malformed("an activation without a port")
}

// portOf is the port of HOST[PORT]. The host is not taken: the login is not shown to a machine that another one names.
func portOf(binding string) string {
	_, p, ok := strings.Cut(strings.TrimRight(binding, "\x00"), "[")
	p, ends := strings.CutSuffix(p, "]")
	if n, err := strconv.ParseUint(p, 10, 16); !ok || !ends || err != nil || n == 0 {
		return ""
	}
	return p
}

// bind offers all interfaces at once, so that one logon protects them all.
func (c *client) bind(ctx context.Context, port string, s *session) error {
	ctx, conn, err := c.rpc(ctx, s.line, port)
	if err != nil {
		return err
	}
	bound, err := conn.Bind(ctx, dcerpc.WithSeal(), dcerpc.WithTargetName(c.target()),
		dcerpc.WithAbstractSyntax(level1.Level1LoginSyntaxV0_0), dcerpc.WithAbstractSyntax(services.ServicesSyntaxV0_0),
		dcerpc.WithAbstractSyntax(enumerator.EnumClassObjectSyntaxV0_0), dcerpc.WithAbstractSyntax(remunknown.RemoteUnknownSyntaxV0_0))
	if err != nil {
		return err
	}
	all, ok := bound.(dcerpc.SubConn)
	if !ok {
		return malformed("a connection of one interface")
	}
	sub := func(syntax *dcerpc.SyntaxID) dcerpc.Conn {
		if one, err := all.SubConn(ctx, syntax); err == nil {
			return one
		}
		return bound // a machine that refuses an interface by itself takes its calls by the object's id
	}
	for _, open := range []func() error{
		func() (err error) {
			one := sub(level1.Level1LoginSyntaxV0_0)
			s.front, err = level1.NewLevel1LoginClient(ctx, one, dcerpc.WithNoBind(one))
			return err
		},
		func() (err error) {
			one := sub(services.ServicesSyntaxV0_0)
			s.services, err = services.NewServicesClient(ctx, one, dcerpc.WithNoBind(one))
			return err
		},
		func() (err error) {
			one := sub(enumerator.EnumClassObjectSyntaxV0_0)
			s.enums, err = enumerator.NewEnumClassObjectClient(ctx, one, dcerpc.WithNoBind(one))
			return err
		},
		func() (err error) {
			one := sub(remunknown.RemoteUnknownSyntaxV0_0)
			s.unknown, err = remunknown.NewRemoteUnknownClient(ctx, one, dcerpc.WithNoBind(one))
			return err
		},
	} {
		if err := open(); err != nil {
			return err
		}
	}
	return nil
}
