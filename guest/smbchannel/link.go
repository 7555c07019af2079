package smbchannel

import (
	"context"
	"errors"
	"fmt"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/internal/smbwire"
)

// ErrLinkLost says that the connection to the guest broke, or was given up because the guest did not answer.
var ErrLinkLost = fmt.Errorf("%w: the SMB connection was lost", guest.ErrLink)

// link is one connection: a session, ADMIN$ and IPC$.
type link struct {
	line    *smbwire.Line
	forget  func() // lets go of what a logon holds
	session *smb2.Session
	admin   *smb2.Share
	ipc     *smb2.Share
	instead string // why it is NTLM that logged on, where Kerberos was to
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
	l := &link{line: smbwire.NewLine(conn, w.opts.Timeout), forget: forget, instead: instead}
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
		session, err := dialer.DialConn(ctx, l.line, w.host)
		if err == nil {
			l.session = session.WithContext(l.line.Done())
		}
		return err
	})
	if err != nil {
		return w.explainLogin(err, l.line.Wire)
	}
	if l.ipc, err = l.mount(ctx, w.host, "IPC$"); err == nil && l.line.Bare.Load() {
		err = smbwire.ErrUnsigned
	}
	if err != nil {
		return w.explainShare("IPC$", err)
	}
	l.line.Strict.Store(true)
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
			mounted = mounted.WithContext(l.line.Done())
		}
		return err
	})
	return mounted, err
}

// encrypted has nothing sent any more that is not encrypted, and asks both shares something: a guest may encrypt for one of
// them alone.
func (w *Way) encrypted(ctx context.Context, l *link) error {
	l.line.Sealed.Store(true)
	share := "ADMIN$"
	err := l.run(ctx, func() error { _, err := l.admin.Stat(""); return err })
	if err == nil {
		share = "IPC$"
		var p *pipe
		if p, err = l.openPipe(ctx, "srvsvc"); err == nil {
			err = p.Close()
		}
	}
	if l.line.Plain.Load() {
		err = smbwire.ErrNotEncrypted
	}
	if err != nil {
		return w.explainShare(share, err)
	}
	return nil
}

// run makes one call of the library, which ends in time.
func (l *link) run(ctx context.Context, call func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	left, err := l.line.Run(ctx, call)
	if errors.Is(err, smbwire.ErrKilled) {
		return ErrLinkLost
	}
	if err != nil && l.dead() {
		err = fmt.Errorf("%w: %w", ErrLinkLost, err)
	}
	if err != nil && left {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func (l *link) dead() bool { return l.line.Dead() }
func (l *link) kill()      { l.line.Kill() }

// close ends the connection, and with it the session. It does not log off: a server may answer that only once reads of
// pipes have ended that nobody waits for any more (Samba 4.17 does).
func (l *link) close() {
	l.kill()
	l.forget()
}
