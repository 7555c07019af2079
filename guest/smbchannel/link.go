package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/guest"
)

// ErrLinkLost says that the connection to the guest broke, or was given up because the guest did not answer.
var ErrLinkLost = fmt.Errorf("%w: the SMB connection was lost", guest.ErrLink)

// grace is how long a request may go on whose caller has left. Most are answered by then, and the connection lives.
const grace = 2 * time.Second

// link is one connection: a session, ADMIN$ and IPC$.
type link struct {
	wire    *wire
	forget  func() // lets go of what a logon holds
	session *smb2.Session
	admin   *smb2.Share
	ipc     *smb2.Share
	timeout time.Duration
	instead string          // why it is NTLM that logged on, where Kerberos was to
	done    context.Context // not a call's: ends what waits inside the library when the connection is given up
	end     context.CancelFunc
}

// connect logs in and reaches both shares. Errors are *guest.WayError.
func (w *Way) connect(ctx context.Context) (*link, error) {
	initiator, forget, instead, err := w.initiator(ctx)
	if err != nil {
		return nil, w.explainLogin(err, nil)
	}
	conn, err := w.opts.Dial(ctx, "tcp", w.addr)
	if err != nil {
		forget()
		return nil, w.explainDial(err)
	}
	l := &link{wire: newWire(conn, w.opts.Timeout), forget: forget, timeout: w.opts.Timeout, instead: instead}
	l.done, l.end = context.WithCancel(context.Background())
	if err := w.logon(ctx, l, initiator); err != nil {
		l.close()
		var way *guest.WayError
		if instead != "" && errors.As(err, &way) {
			way.Problem += " (" + instead + ")"
		}
		return nil, err
	}
	return l, nil
}

func (w *Way) logon(ctx context.Context, l *link, initiator smb2.Initiator) error {
	dialer := smb2.Dialer{Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: initiator}
	err := l.run(ctx, func() error {
		session, err := dialer.DialConn(ctx, l.wire, w.host)
		if err == nil {
			l.session = session.WithContext(l.done)
		}
		return err
	})
	if err != nil {
		return w.explainLogin(err, l.wire)
	}
	if l.ipc, err = l.mount(ctx, w.host, "IPC$"); err == nil && l.wire.bare.Load() {
		err = errUnsigned
	}
	if err != nil {
		return w.explainShare("IPC$", err)
	}
	l.wire.strict.Store(true)
	if l.admin, err = l.mount(ctx, w.host, "ADMIN$"); err != nil {
		return w.explainShare("ADMIN$", err)
	}
	if w.opts.RequireEncryption {
		return w.encrypted(ctx, l)
	}
	return nil
}

func (l *link) mount(ctx context.Context, host, share string) (mounted *smb2.Share, err error) {
	err = l.run(ctx, func() error {
		mounted, err = l.session.Mount(`\\` + host + `\` + share)
		if err == nil {
			mounted = mounted.WithContext(l.done)
		}
		return err
	})
	return mounted, err
}

// encrypted has nothing sent any more that is not encrypted, and asks both shares something: a guest may encrypt for one of
// them alone.
func (w *Way) encrypted(ctx context.Context, l *link) error {
	l.wire.sealed.Store(true)
	share := "ADMIN$"
	err := l.run(ctx, func() error { _, err := l.admin.Stat(""); return err })
	if err == nil {
		share = "IPC$"
		var p *pipe
		if p, err = l.openPipe(ctx, "srvsvc"); err == nil {
			err = p.Close()
		}
	}
	if l.wire.plain.Load() {
		err = errNotEncrypted
	}
	if err != nil {
		return w.explainShare(share, err)
	}
	return nil
}

// run makes one call of the library. It ends in time: a connection on which it does not is given up, and so is one
// whose caller left and that still did not answer after a moment. The library takes a server's word for sizes here and
// there; a panic over that is an answer that makes no sense, and no reason for the program to end.
func (l *link) run(ctx context.Context, call func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if l.dead() {
		return ErrLinkLost
	}
	var answered atomic.Bool
	timer := time.AfterFunc(l.timeout, func() {
		if !answered.Load() {
			l.kill()
		}
	})
	stop := context.AfterFunc(ctx, func() { timer.Reset(min(grace, l.timeout)) })
	defer func() {
		answered.Store(true)
		left := !stop()
		timer.Stop()
		if p := recover(); p != nil {
			l.kill()
			err = &smb2.InvalidResponseError{Message: fmt.Sprint("the answer makes no sense: ", p)}
		}
		if err != nil && l.dead() {
			err = fmt.Errorf("%w: %w", ErrLinkLost, err)
		}
		if err != nil && left {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	return call()
}

func (l *link) dead() bool { return l.done.Err() != nil || l.wire.broken.Load() }

// kill gives the connection up. What the server has open for it, it closes.
func (l *link) kill() {
	l.end()
	_ = l.wire.Close()
}

// close ends the connection, and with it the session. It does not log off: a server may answer that only once reads of
// pipes have ended that nobody waits for any more (Samba 4.17 does).
func (l *link) close() {
	l.kill()
	l.forget()
}
