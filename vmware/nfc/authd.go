package nfc

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// longestLine bounds a line of the authentication daemon; its banner is about 170 bytes.
const longestLine = 1024

// connect goes the whole way to a disk service that listens for classic messages. It returns the TCP connection, and what
// messages go over: the same, or TLS on it.
func connect(ctx context.Context, t Ticket, opts *Options) (raw, conn net.Conn, err error) {
	trust, err := t.check()
	if err != nil {
		return nil, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, opts.DialTimeout)
	defer cancel()
	raw, err = opts.Dialer(limited, "tcp", t.addr())
	if err != nil {
		return nil, nil, cause(ctx, fmt.Errorf("NFC: %s: %w", t.addr(), lost(err)))
	}
	stop := watch(limited, raw)
	conn, err = admit(limited, raw, t, trust, opts)
	if !stop() && err == nil {
		err = limited.Err()
	}
	if err != nil {
		raw.Close()
		return nil, nil, cause(ctx, fmt.Errorf("NFC: %s: %w", t.addr(), lost(err)))
	}
	return raw, conn, nil
}

// watch makes everything on a connection fail with the end of ctx. stop reports false where that has happened.
func watch(ctx context.Context, raw net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
}

// cause prefers the caller's reason to what it led to.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// admit shows the ticket, and has the daemon hand the connection over.
func admit(ctx context.Context, raw net.Conn, t Ticket, trust thumbprint, opts *Options) (net.Conn, error) {
	banner := lines{from: oneByOne{raw}}
	if _, err := banner.expect("220", t.addr(), "the connection"); err != nil {
		return nil, err
	}
	// This layer is left, not closed: a close_notify would be the first thing that the service behind reads.
	outer := tls.Client(&records{Conn: raw}, trust.tlsConfig(t.addr(), "authentication"))
	if err := outer.HandshakeContext(ctx); err != nil {
		return nil, handshakeError(err)
	}
	service := t.Service
	if !opts.Clear {
		service += "ssl"
	}
	if err := login(outer, t, service); err != nil {
		return nil, err
	}
	if opts.Clear {
		return raw, nil
	}
	inner := tls.Client(raw, trust.tlsConfig(t.addr(), "disk service"))
	if err := inner.HandshakeContext(ctx); err != nil {
		return nil, handshakeError(err)
	}
	return inner, nil
}

// handshakeError keeps what crypto/tls wraps around a refused certificate out of the way.
func handshakeError(err error) error {
	var trust *TrustError
	if errors.As(err, &trust) {
		return trust
	}
	return fmt.Errorf("TLS: %w", err)
}

// login is the dialogue inside the first TLS. SESSION has no answer of its own: a bad id shows at the end.
func login(outer net.Conn, t Ticket, service string) error {
	in := lines{from: outer}
	for _, step := range []struct{ send, answer, name string }{
		{send: "SESSION " + t.SessionID},
		{"BANNER ", "220", "BANNER"}, // the space is part of the command
		{"THUMBPRINT_SHA2 PlainText", "200", "THUMBPRINT_SHA2"},
		{"PROXY " + service, "200", "PROXY " + service},
	} {
		if _, err := io.WriteString(outer, step.send+"\r\n"); err != nil {
			return err
		}
		if step.answer == "" {
			continue
		}
		if _, err := in.expect(step.answer, t.addr(), step.name); err != nil {
			return err
		}
	}
	if len(in.ahead) > 0 {
		return broken("%d bytes of the daemon after the hand-over", len(in.ahead))
	}
	return nil
}

// lines reads the daemon's answers.
type lines struct {
	from  io.Reader
	ahead []byte // read, and no part of a line yet
}

// expect reads a line that must begin with the code.
func (l *lines) expect(code, addr, command string) (string, error) {
	line, err := l.next()
	if err != nil {
		return "", err
	}
	if line != code && !strings.HasPrefix(line, code+" ") {
		return "", &RefusedError{Addr: addr, Command: command, Answer: line[:min(len(line), 200)]}
	}
	return line, nil
}

func (l *lines) next() (string, error) {
	var buf [512]byte
	for {
		if i := bytes.IndexByte(l.ahead, '\n'); i >= 0 {
			line := strings.TrimSuffix(string(l.ahead[:i]), "\r")
			l.ahead = l.ahead[i+1:]
			return line, nil
		}
		if len(l.ahead) > longestLine {
			return "", broken("a line of the daemon has more than %d bytes", longestLine)
		}
		n, err := l.from.Read(buf[:])
		l.ahead = append(l.ahead, buf[:n]...)
		if err != nil && n == 0 {
			return "", err
		}
	}
}

// oneByOne never reads past the byte that it was asked for: the first line comes in the clear, and TLS right behind it.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }
