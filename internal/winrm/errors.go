package winrm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// Error says at which step an exchange failed, and what a person can do about it.
type Error struct {
	Step string // resolve, connect, certificate, login, rights, link
	Hint string // empty where there is none
	Sent bool   // the server may have got the message, and acted on it
	Err  error
}

func (e *Error) Error() string { return "WinRM: " + e.Step + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// StatusError is an answer that is no message.
type StatusError struct {
	Status int
	Offers []string // schemes by which one could log on
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
}

// What answers were refused for.
var (
	ErrHuge   = errors.New("an answer of more than the bytes that are allowed")
	errType   = errors.New("the answer is not of WS-Management: wrong content type")
	errClear  = errors.New("the server answered an encrypted message in clear text")
	errSealed = errors.New("malformed encrypted answer")
)

func wrong(step, hint string, err error) error { return &Error{Step: step, Hint: hint, Err: err} }

func unreached(err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return wrong("resolve", "check the machine's name, or give its address", err)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return wrong("connect", "a firewall may drop packets to this port: see its rule Windows Remote Management", err)
	}
	return wrong("connect", "check that the service WinRM runs and has a listener: winrm quickconfig, and for TLS winrm quickconfig -transport:https", err)
}

func mistrusted(err error) error {
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return wrong("certificate", "this port speaks no TLS: 5986 does, 5985 does not", err)
	}
	return wrong("certificate", "give the authority that made the machine's certificate, or its thumbprint", err)
}

// cut leaves alone what has a step already.
func (l *Link) cut(err error, sent bool) error {
	var named *Error
	var status *StatusError
	switch {
	case errors.As(err, &named):
		return err
	case errors.As(err, &status):
		return l.refused(status)
	}
	return &Error{Step: "link", Sent: sent, Err: err}
}

// refused finds words for an answer that is no message. None of these means that a message was served.
func (l *Link) refused(s *StatusError) error {
	switch s.Status {
	case http.StatusUnauthorized:
		hint := "check the account's name and password"
		if len(s.Offers) > 0 {
			hint += "; the server takes " + strings.Join(s.Offers, ", ")
		}
		if l.method == byBasic {
			hint += "; Basic is for local accounts, and off unless winrm/config/service/auth has it"
		}
		return wrong("login", hint, s)
	case http.StatusForbidden:
		return wrong("rights", "the account may not use WinRM: put it into Administrators or Remote Management Users", s)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return wrong("connect", "something else listens on this port", s)
	case http.StatusServiceUnavailable:
		return wrong("connect", "the port is open, but the service WinRM does not run or is busy: start it", s)
	}
	return &Error{Step: "link", Sent: true, Err: s}
}

// refusal keeps of an answer what is safe to show: a scheme is a word.
func refusal(res *http.Response) *StatusError {
	e := &StatusError{Status: res.StatusCode}
	for _, offer := range res.Header.Values("WWW-Authenticate") {
		scheme, _, _ := strings.Cut(offer, " ")
		if len(e.Offers) < 5 && isWord(scheme) {
			e.Offers = append(e.Offers, scheme)
		}
	}
	return e
}

func isWord(s string) bool {
	return s != "" && len(s) <= 20 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	})
}
