package sshchannel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hikae/hikae/guest"
	"golang.org/x/crypto/ssh"
)

const (
	openLimit = 20 * time.Second // opening, where the context has no deadline
	keepAlive = 15 * time.Second
)

// Options change how a guest is reached. Nil and zero fields are good defaults.
type Options struct {
	// KnownHosts are files in the form of OpenSSH's known_hosts. Lines with @cert-authority and @revoked count.
	KnownHosts []string
	// Fingerprints ("SHA256:…") are the only keys that are taken, if there are any; files are not looked at then.
	Fingerprints []string
	// TrustFirst is a file to which the key of a server is written that is not known yet. It is then held to. Empty: such
	// a server is refused.
	TrustFirst string
	// Temp are folders of the guest that are tried before the usual ones.
	Temp []string
	// KeepAlive is how often a server is asked whether it is there, and how long it has to answer. Zero: 15 s.
	KeepAlive time.Duration
	// Dial opens the connection, for those who reach guests through something. Nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Way is SSH to one guest. It implements [guest.Way].
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
	if _, _, err := net.SplitHostPort(addr); err != nil {
		w.addr = net.JoinHostPort(strings.Trim(addr, "[]"), "22")
	}
	w.addr = strings.ToLower(w.addr) // known_hosts has names in small letters
	if w.opts.KeepAlive <= 0 {
		w.opts.KeepAlive = keepAlive
	}
	if w.opts.Dial == nil {
		w.opts.Dial = (&net.Dialer{}).DialContext
	}
	return w
}

// Kind implements [guest.Way].
func (w *Way) Kind() guest.Kind { return guest.SSH }

// Probe implements [guest.Way].
func (w *Way) Probe(ctx context.Context) guest.Finding { return guest.ProbeByOpening(ctx, w) }

// Open implements [guest.Way].
func (w *Way) Open(ctx context.Context) (guest.Channel, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, openLimit)
		defer cancel()
	}
	l, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	opts := &guest.OverOptions{Temp: w.opts.Temp, OS: "linux"}
	if l.windows {
		opts.OS = "windows"
	}
	over, err := guest.Over(ctx, guest.SSH, l, opts)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &channel{Channel: over, link: l}, nil
}

// channel adds to what is made of any channel that SSH carries streams.
type channel struct {
	guest.Channel
	link *link
}

func (w *Way) wrong(step, hint string, err error) error {
	return &guest.WayError{Kind: guest.SSH, Step: step, Problem: err.Error(), Hint: hint, Err: err}
}

// connect logs in.
func (w *Way) connect(ctx context.Context) (*link, error) {
	keys := &hostKeys{addr: w.addr, opts: &w.opts}
	attempts, err := keys.attempts()
	if err != nil {
		return nil, w.wrong("host key", "see to the file of known hosts", err)
	}
	var wrong error // a key that the server has, and that is not the one: it says more than that there is no other
	for _, algorithms := range attempts {
		var l *link
		if l, err = w.attempt(ctx, keys, algorithms); err == nil {
			return l, nil
		}
		var other *HostKeyError
		var none *ssh.AlgorithmNegotiationError
		if errors.As(err, &other) {
			wrong = err
		} else if !errors.As(err, &none) {
			return nil, err
		}
	}
	return nil, cmp.Or(wrong, err)
}

// attempt connects with one list of algorithms for the server's key.
func (w *Way) attempt(ctx context.Context, keys *hostKeys, algorithms []string) (*link, error) {
	conn, err := w.opts.Dial(ctx, "tcp", w.addr)
	if err != nil {
		return nil, w.unreached(err)
	}
	// Whatever the handshake waits for, the end of the context ends it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l, err := w.handshake(&line{Conn: conn}, keys, algorithms)
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
		if l != nil {
			l.Close()
		}
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, w.wrong("connect", "the server took the connection and then said nothing in time", errors.Join(ctx.Err(), err))
		}
		return nil, err
	}
	return l, nil
}

func (w *Way) unreached(err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return w.wrong("resolve", "check the guest's name, or give its address", err)
	case errors.Is(err, context.DeadlineExceeded):
		return w.wrong("connect", "a firewall may drop packets to this port", err)
	}
	return w.wrong("connect", "check that the SSH server runs and that no firewall closes its port", err)
}

func (w *Way) handshake(conn *line, keys *hostKeys, algorithms []string) (*link, error) {
	methods, stop, err := login(w.cred)
	if err != nil {
		return nil, w.wrong("login", "check the guest's credential", err)
	}
	defer stop()
	known := false
	config := &ssh.ClientConfig{
		User: w.cred.User, Auth: methods, HostKeyAlgorithms: algorithms,
		ClientVersion:  "SSH-2.0-hikae",
		BannerCallback: func(string) error { return nil }, // for people
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			err := keys.check(name, remote, key)
			known = err == nil
			return err
		},
	}
	c, channels, requests, err := ssh.NewClientConn(conn, w.addr, config)
	if err != nil {
		return nil, w.refused(err, known)
	}
	return newLink(conn, ssh.NewClient(c, channels, requests), w.opts.KeepAlive), nil
}

// refused finds words for what ended a handshake.
func (w *Way) refused(err error, known bool) error {
	var key *HostKeyError
	var none *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &key):
		return w.wrong("host key", key.hint(), err)
	case errors.As(err, &none) && len(w.opts.Fingerprints)+len(w.opts.KnownHosts) > 0:
		return w.wrong("host key", "the server has no key of the kind that is known for it, or is too old", err)
	case !known:
		return w.wrong("handshake", "check that an SSH server listens on this port", err)
	case errors.Is(err, errQuestions):
		return w.wrong("login", "use a key: this account needs more than a password", err)
	}
	return w.wrong("login", fmt.Sprintf("check the user %q, its key or password, and what the server's settings allow", w.cred.User), err)
}
