package nfctest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

const (
	banner = "220 VMware Authentication Daemon Version 1.10: SSL Required, ServerDaemonProtocol:SOAP, " +
		"MKSDisplayProtocol:VNC , VMXARGS supported, NFCSSL supported/t, SHA256 supported\r\n"
	maxLine  = 1024
	maxLines = 16 // of one client; it needs four
)

var errRefused = errors.New("nfctest: refused")

// login is the daemon: a banner in the clear, then TLS and lines, until the client is handed to the disk service. TLS is
// left as it stands, without a word: what follows on c is the disk service's.
func (s *Server) login(c net.Conn) (Ticket, bool, error) {
	if _, err := io.WriteString(c, banner); err != nil {
		return Ticket{}, false, err
	}
	outer := tls.Server(&records{Conn: c}, s.tls)
	if err := outer.HandshakeContext(s.ctx); err != nil {
		return Ticket{}, false, err
	}
	return s.lines(outer)
}

// lines speaks with the client inside TLS.
func (s *Server) lines(c io.ReadWriter) (ticket Ticket, encrypted bool, err error) {
	known := false
	for range maxLines {
		line, err := readLine(c)
		if err != nil {
			return ticket, false, err
		}
		answer := "500 Unknown command\r\n"
		verb, arg, _ := strings.Cut(line, " ")
		switch {
		case verb == "SESSION":
			ticket, known = s.take(arg)
			continue // it has no answer
		case line == "BANNER ":
			answer = banner
		case line == "THUMBPRINT_SHA2 PlainText":
			answer = "200 " + s.print + "\r\n"
		case verb == "THUMBPRINT_SHA2":
			answer = "501 Invalid arguments\r\n"
		case verb == "PROXY" && !known:
			_, err = io.WriteString(c, "530 Please login with USER and PASS\r\n")
			return ticket, false, errors.Join(errRefused, err)
		case verb == "PROXY" && (arg == ticket.Service || arg == ticket.Service+"ssl"):
			suffix := strings.TrimPrefix(arg, ticket.Service)
			_, err = io.WriteString(c, "200 Connect ha-nfc"+suffix+"\r\n")
			return ticket, suffix != "", err
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return ticket, false, err
		}
	}
	return ticket, false, errRefused
}

// readLine reads up to the end of a line and no byte more.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxLine {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("nfctest: a line of more than %d bytes", maxLine)
}

// records gives TLS one record at a time, so that it never takes bytes that come after it: a client may send them before
// it has the last answer.
type records struct {
	net.Conn
	head []byte // of the record at hand, not handed on yet
	left int    // of its body
}

func (r *records) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.left == 0 && len(r.head) == 0 {
		head := make([]byte, 5)
		if _, err := io.ReadFull(r.Conn, head); err != nil {
			return 0, err
		}
		r.head, r.left = head, int(head[3])<<8|int(head[4])
	}
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	n, err := r.Conn.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}
