package winrmchannel

import (
	"errors"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/wsman"
	"github.com/hikae/hikae/internal/winrm"
)

func (l *link) wrong(step, hint string, err error) error {
	return &guest.WayError{Kind: guest.WinRM, Step: step, Problem: guest.Printable(err.Error(), 300), Hint: hint, Err: err}
}

// worded gives what failed below a channel's words.
func (l *link) worded(err error) error {
	var e *winrm.Error
	if errors.As(err, &e) {
		if error(e) == err {
			err = e.Err
		}
		return l.wrong(e.Step, e.Hint, err)
	}
	return err
}

// faulty finds words for what the service says.
func (l *link) faulty(err error) error {
	var f *wsman.Fault
	switch {
	case !errors.As(err, &f):
		return l.wrong("link", "", err)
	case f.Denied():
		return l.wrong("rights", "the account must be an administrator. Remote UAC cuts down local accounts other than Administrator: "+
			"use that one or a domain account, or set LocalAccountTokenFilterPolicy to 1", err)
	case f.Quota():
		return l.wrong("quota", "raise MaxShellsPerUser, MaxProcessesPerShell or MaxMemoryPerShellMB of winrm/config/winrs", err)
	}
	return l.wrong("link", "", err)
}
