package smbchannel

import (
	"cmp"
	"context"
	"net"
	"strings"
	"time"

	"github.com/hikae/hikae/guest"
)

// Limits where nothing else is said.
const (
	openLimit   = 20 * time.Second // opening, where the context has no deadline
	answerLimit = 20 * time.Second // one request
	port        = "445"
)

// Options change how a guest is reached. Nil and zero fields are good defaults.
type Options struct {
	// Timeout is how long one request may take. A connection that does not answer in it is given up. Zero: 20 s.
	Timeout time.Duration
	// RequireEncryption refuses guests that do not encrypt, beyond signing.
	RequireEncryption bool
	// Persistent is the name of the service of a persistent component, for SeesComponent. Empty: hikae-agent.
	Persistent string
	// Dial opens the connection, for those who reach guests through something. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Way is SMB to one guest. It implements [guest.Way] and [guest.ComponentSeer].
type Way struct {
	host, addr string
	cred       guest.Credential
	opts       Options
}

// New sets a way up; nothing is connected yet. Addr is HOST or HOST:PORT; for Kerberos HOST is the guest's full name.
func New(addr string, cred guest.Credential, opts *Options) *Way {
	w := &Way{cred: cred}
	if opts != nil {
		w.opts = *opts
	}
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		host, p = strings.Trim(addr, "[]"), port
	}
	w.host, w.addr = host, net.JoinHostPort(host, p)
	w.opts.Timeout = cmp.Or(max(w.opts.Timeout, 0), answerLimit)
	w.opts.Persistent = cmp.Or(w.opts.Persistent, "hikae-agent")
	if w.opts.Dial == nil {
		w.opts.Dial = (&net.Dialer{}).DialContext
	}
	return w
}

// Kind implements [guest.Way].
func (w *Way) Kind() guest.Kind { return guest.SMB }

// Probe implements [guest.Way]. It logs in, reaches ADMIN$, asks for the right to make services, and makes nothing.
// A guest that took NTLM where Kerberos was to go first is open, with a problem.
func (w *Way) Probe(ctx context.Context) guest.Finding {
	noting := &noting{Way: w}
	f := guest.ProbeByOpening(ctx, noting)
	if f.Open && f.Problem == "" && noting.instead != "" {
		f.Step, f.Problem = "login", noting.instead
		f.Hint = "see to the realm and its key distribution centers, or demand Kerberos"
	}
	return f
}

// noting is a way that keeps what its opening has to say.
type noting struct {
	*Way
	instead string
}

func (n *noting) Open(ctx context.Context) (guest.Channel, error) {
	c, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	n.instead = c.link.instead
	return c, nil
}

// Open implements [guest.Way].
func (w *Way) Open(ctx context.Context) (guest.Channel, error) {
	c, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (w *Way) open(ctx context.Context) (*channel, error) {
	ctx, cancel := bounded(ctx, openLimit)
	defer cancel()
	l, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &channel{way: w, link: l}
	if err := c.learn(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// SeesComponent implements [guest.ComponentSeer]: it asks for the service of a persistent component.
func (w *Way) SeesComponent(ctx context.Context) (bool, error) {
	c, err := w.open(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	return c.hasService(ctx, w.opts.Persistent)
}

func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}
