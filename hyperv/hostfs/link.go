package hostfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
)

// link is one connection: a session, and the share mounted in it.
type link struct {
	line    *smbwire.Line
	session *smb2.Session
	share   *smb2.Share
	forget  func() // lets go of what the logon holds
	users   int    // the pool's
}

// connect logs on and mounts the share.
func (s *share) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	login, err := s.opts.Login(ctx, s.server)
	if err != nil {
		return nil, fmt.Errorf("%w: none for %s: %w", ErrLogon, s.server, err)
	}
	initiator, forget, err := login.initiator(ctx, s.server)
	if err != nil {
		return nil, err
	}
	conn, err := s.opts.Dial(ctx, "tcp", s.address())
	if err != nil {
		forget()
		return nil, err
	}
	l := &link{line: smbwire.NewLine(conn, s.opts.Timeout), forget: forget}
	if err := l.logon(ctx, initiator, s.server, s.name); err != nil {
		l.close()
		if guest(err) {
			err = errGuest
		}
		return nil, fmt.Errorf("log on to %s as %s: %w", s.unc(), login.User, translate(err))
	}
	if s.opts.RequireEncryption {
		if !l.line.Encrypted.Load() {
			l.close()
			return nil, ErrNotEncrypted
		}
		l.line.Sealed.Store(true)
	}
	return l, nil
}

// address is where the server is reached.
func (s *share) address() string {
	addr := s.server
	if s.opts.Address != nil {
		if a := s.opts.Address(s.server); a != "" {
			addr = a
		}
	}
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), "445")
}

func (l *link) logon(ctx context.Context, initiator smb2.Initiator, server, share string) error {
	dialer := smb2.Dialer{Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: initiator}
	return l.run(ctx, func() error {
		session, err := dialer.DialConn(ctx, l.line, server)
		if err != nil {
			return err
		}
		l.session = session.WithContext(l.line.Done())
		mounted, err := l.session.Mount(`\\` + server + `\` + share)
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
	left, err := l.line.Run(ctx, call)
	if left && err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
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
	l.forget()
}
