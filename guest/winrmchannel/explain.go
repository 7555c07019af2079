package winrmchannel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/wsman"
)

func (l *link) wrong(step, hint string, err error) error {
	return &guest.WayError{Kind: guest.WinRM, Step: step, Problem: guest.Printable(err.Error(), 300), Hint: hint, Err: err}
}

func (l *link) unreached(err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return l.wrong("resolve", "check the guest's name, or give its address", err)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return l.wrong("connect", "a firewall may drop packets to this port: see its rule Windows Remote Management", err)
	}
	return l.wrong("connect", "check that the service WinRM runs and has a listener: winrm quickconfig, and for TLS winrm quickconfig -transport:https", err)
}

func (l *link) mistrusted(err error) error {
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return l.wrong("certificate", "this port speaks no TLS: 5986 does, 5985 does not", err)
	}
	return l.wrong("certificate", "give the authority that made the guest's certificate, or its thumbprint", err)
}

// cut leaves alone what has words already.
func (l *link) cut(err error) error {
	var way *guest.WayError
	var status *statusError
	switch {
	case errors.As(err, &way):
		return err
	case errors.As(err, &status):
		return l.refused(err)
	}
	return l.wrong("link", "", err)
}

// refused finds words for an answer that is no message.
func (l *link) refused(err error) error {
	var s *statusError
	errors.As(err, &s)
	switch s.Status {
	case http.StatusUnauthorized:
		hint := "check the account's name and password"
		if len(s.Offers) > 0 {
			hint += "; the server takes " + guest.Printable(strings.Join(s.Offers, ", "), 100)
		}
		if l.method == byBasic {
			hint += "; Basic is for local accounts, and off unless winrm/config/service/auth has it"
		}
		return l.wrong("login", hint, err)
	case http.StatusForbidden:
		return l.wrong("rights", "the account may not use WinRM: put it into Administrators or Remote Management Users", err)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return l.wrong("connect", "something else listens on this port", err)
	case http.StatusServiceUnavailable:
		return l.wrong("connect", "the port is open, but the service WinRM does not run or is busy: start it", err)
	}
	return l.wrong("link", "", err)
}

// faulty finds words for what the service says.
func (l *link) faulty(err error) error {
	var f *wsman.Fault
	switch {
	case !errors.As(err, &f):
		return l.cut(err)
	case f.Denied():
		return l.wrong("rights", "the account must be an administrator. Remote UAC cuts down local accounts other than Administrator: "+
			"use that one or a domain account, or set LocalAccountTokenFilterPolicy to 1", err)
	case f.Quota():
		return l.wrong("quota", "raise MaxShellsPerUser, MaxProcessesPerShell or MaxMemoryPerShellMB of winrm/config/winrs", err)
	}
	return l.wrong("link", "", err)
}
