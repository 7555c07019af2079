package winrmchannel

import (
	"context"
	"errors"
	"time"

	"github.com/hikae/hikae/guest/winrmchannel/wsman"
	"github.com/hikae/hikae/internal/winrm"
)

// Bounds of a link. Each program that runs has one connection waiting for its output.
const (
	maxConns  = 16
	maxAnswer = 1 << 20 // bytes of one answer, with its head; we ask for at most 150 KiB
)

// link is a way to send messages to one guest.
type link struct {
	over     *winrm.Link
	requests wsman.Requests
}

var errManaged = errors.New("a group managed service account can be used only by a proxy on Windows in its domain")

func newLink(w *Way) (*link, error) {
	c, o := w.cred, w.opts
	l := &link{}
	if c.ManagedAccount {
		return nil, l.wrong("login", "let a proxy reach this guest, or give another account", errManaged)
	}
	over, err := winrm.New(w.addr,
		winrm.Login{User: c.User, Password: c.Password, Realm: c.Realm, Config: c.Config, KDCs: c.KDCs, KerberosOnly: c.KerberosOnly},
		&winrm.Options{RootCAs: o.RootCAs, Thumbprints: o.Thumbprints, ServerName: o.ServerName, Plain: o.Plain, Basic: o.Basic,
			Certificates: o.Certificates, Dial: o.Dial, MaxConns: maxConns, MaxAnswer: maxAnswer})
	if err != nil {
		return nil, l.worded(err)
	}
	l.over = over
	l.requests = wsman.Requests{URL: over.URL(), Envelope: envelope, Timeout: operation}
	return l, nil
}

// post sends a message and returns the answer. A *wsman.Fault is what a later reader of the answer finds.
func (l *link) post(ctx context.Context, message []byte) ([]byte, error) {
	answer, err := l.over.Post(ctx, message)
	return answer, l.worded(err)
}

// Close implements [hikae.GuestChannel].
func (l *link) Close() error { return l.over.Close() }

// Times of the protocol.
const (
	envelope  = 153600 // bytes; what every server takes
	operation = 20 * time.Second
	shellIdle = 3 * time.Minute
)
