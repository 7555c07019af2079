package smbstore

import (
	"context"
	"fmt"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
)

// errGuest says that the server let somebody in whom it does not know: package smbwire tells why the library does not see that.
var errGuest = fmt.Errorf("%w: only as a guest, who cannot sign", ErrLogon)

// link is one connection: a session, and the share mounted in it.
type link struct {
	line    *smbwire.Line
	session *smb2.Session
	share   *smb2.Share
	users   int // the pool's
}

// connect logs on and mounts the share.
func connect(ctx context.Context, at Address, creds CredentialsFunc, o Options) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	c, err := creds(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w: %w", ErrLogon, err)
	}
	initiator, err := c.initiator()
	if err != nil {
		return nil, err
	}
	hostPort, host := at.hostPort()
	conn, err := o.Dial(ctx, "tcp", hostPort)
	if err != nil {
		return nil, err
	}
	l := &link{line: smbwire.NewLine(conn, o.Timeout)}
	if err := l.logon(ctx, initiator, host, at.Share); err != nil {
		l.close()
		if guest(err) {
			err = errGuest
		}
		return nil, fmt.Errorf("log on to %s as %s: %w", at, c, translate(err))
	}
	if o.RequireEncryption && !l.line.Encrypted.Load() {
		l.close()
		return nil, ErrNotEncrypted
	}
	return l, nil
}

func (l *link) logon(ctx context.Context, initiator smb2.Initiator, host, share string) error {
	dialer := smb2.Dialer{Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: initiator}
	return l.run(ctx, func() error {
		session, err := dialer.DialConn(ctx, l.line, host)
		if err != nil {
			return err
		}
		l.session = session.WithContext(l.line.Done())
		mounted, err := l.session.Mount(`\\` + host + `\` + share)
		if l.line.Bare.Load() {
			return errGuest
		}
		if err != nil {
			return err
		}
		l.line.Strict.Store(true)
		l.share = mounted.WithContext(l.line.Done())
		_, err = l.share.Stat("") // so that a request of the share itself was seen on the wire
		return err
	})
}

// run makes one call of the library, which ends in time.
func (l *link) run(ctx context.Context, call func() error) error {
	_, err := l.line.Run(ctx, call)
	return err
}

func (l *link) dead() bool { return l.line.Dead() }
func (l *link) kill()      { l.line.Kill() }

// close logs off where that still can be done.
func (l *link) close() {
	if l.session != nil && !l.dead() {
		ctx, cancel := context.WithTimeout(context.Background(), smbwire.Grace)
		defer cancel()
		_ = l.run(ctx, l.session.Logoff) // whether it is heard makes no difference: the connection ends
	}
	l.kill()
}
