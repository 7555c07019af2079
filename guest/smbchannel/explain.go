package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/internal/kerberos"
	"github.com/hikae/hikae/internal/smbwire"
)

// reason is a step, what went wrong in words, and what to change.
type reason struct{ step, problem, hint string }

func (w *Way) because(r reason, err error) error {
	return &guest.WayError{Kind: guest.SMB, Step: r.step, Problem: r.problem, Hint: r.hint, Err: err}
}

// explainDial is for a port that does not open.
func (w *Way) explainDial(err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return w.because(reason{"resolve", "the name " + w.host + " is not known", "check the name, or give the guest's address"}, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return w.because(reason{"connect", "the guest closes its port " + w.portOf(),
			"start its Server service (LanmanServer); a persistent component needs no such port"}, err)
	case timeout(err):
		return w.because(reason{"connect", "nothing answers at port " + w.portOf(),
			"let the guest's firewall take File and Printer Sharing (SMB-In) from this machine, or use another way in"}, err)
	}
	return w.because(reason{"connect", err.Error(), "check the way through the network to port " + w.portOf()}, err)
}

func (w *Way) portOf() string {
	_, p, _ := net.SplitHostPort(w.addr)
	return p
}

func timeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// logons are what servers answer to a logon (MS-ERREF 2.3.1).
var logons = map[uint32]reason{
	0xc000006d: {"login", "wrong user or wrong password: Windows does not say which", "check both; a local user may need HOST\\User, one of a domain DOMAIN\\User"},
	0xc0000064: {"login", "no such user", "check the user and the domain"},
	0xc000006a: {"login", "wrong password", "check the password"},
	0xc000006e: {"login", "a restriction of the account keeps it out", "an empty password does not work over a network; members of Protected Users need Kerberos"},
	0xc000006f: {"login", "the account may not log on at this hour", "change its logon hours"},
	0xc0000070: {"login", "the account may not log on from this machine", "change the list of workstations of the account"},
	0xc0000071: {"login", "the password has expired", "set a new one"},
	0xc0000072: {"login", "the account is disabled", "enable it, or use another"},
	0xc0000193: {"login", "the account has expired", "extend it, or use another"},
	0xc0000224: {"login", "the password must be changed first", "log on once with the account and change it"},
	0xc0000234: {"login", "the account is locked after wrong passwords", "unlock it; check the password before trying again"},
	0xc000015b: {"login", "the guest's policy does not let the account log on over the network",
		"take it, or \"Local account\", out of \"Deny access to this computer from the network\", or use a domain account"},
	0xc000005e: {"login", "the guest reaches no domain controller to check the account with", "see to the guest's domain, or use a local account"},
	0xc000018c: {"login", "the trust between domains does not work", "see to the trust, or use an account of the guest's own domain"},
	0xc000018d: {"login", "the guest has lost its trust with the domain", "join it again, or use a local account"},
	0xc0000133: {"login", "clocks are more than five minutes apart", "set the clocks of this machine, the guest and the domain controller"},
	0xc0000418: {"login", "NTLM is blocked in the guest or its domain", "use Kerberos: a domain account with its realm, and the guest's full name"},
	0xc00000bb: {"login", "the guest does not take this kind of logon", "NTLM may be blocked: use Kerberos, with the guest's full name"},
	0xc0000022: {"login", "the guest refuses the logon", "check the policies on network access to the guest"},
	0xc000000d: {"login", "the guest cannot read the logon", "Kerberos: its name here may not be the one that its ticket is for"},
	0xc00000dc: {"login", "the guest is not ready for logons", "wait until it has started"},
	0xc000009a: {"login", "the guest has no room for another session", "close sessions, or wait"},
}

// explainLogin is for everything between an open port and a session.
func (w *Way) explainLogin(err error, wire *smbwire.Wire) error {
	own := []struct {
		is error
		reason
	}{
		{errNoUser, reason{"login", "the credential has no user", "give one"}},
		{errManaged, reason{"login", errManaged.Error(), "choose a proxy on Windows, or another account"}},
		{errAddress, reason{"login", errAddress.Error(), "name the guest in full: host.domain"}},
		{kerberos.ErrNoRealm, reason{"login", kerberos.ErrNoRealm.Error(), "give the realm, or the user as user@realm"}},
	}
	for _, o := range own {
		if errors.Is(err, o.is) {
			return w.because(o.reason, err)
		}
	}
	if errors.Is(err, errKerberos) {
		return w.because(w.kerberosReason(err), err)
	}
	if wire != nil {
		if r, ok := w.wireReason(err, wire); ok {
			return w.because(r, err)
		}
	}
	return w.because(reason{"login", words(err), "check that a Windows guest listens at this port"}, err)
}

// wireReason tells by what was seen on the wire.
func (w *Way) wireReason(err error, wire *smbwire.Wire) (reason, bool) {
	if r, ok := logons[wire.Status.Load()]; ok {
		if len(w.label()) > 15 && w.cred.KerberosOnly {
			r.hint += "; the guest's name has more than 15 characters, which Kerberos may know cut off"
		}
		return r, true
	}
	unsigned := errors.Is(err, smbwire.ErrUnsigned) || strings.Contains(err.Error(), "guest account") || strings.Contains(err.Error(), "anonymous account")
	switch {
	case unsigned:
		return unsignedReason, true
	case wire.Dialect.Load() == smbwire.SpokeSMB1:
		return reason{"protocol", "the guest speaks SMB 1 only, which is not safe", "enable SMB 2 in it (Windows Vista, Server 2008 and newer have it)"}, true
	case wire.Dialect.Load() == smbwire.SpokeOther:
		return reason{"protocol", "what answers does not speak SMB", "check the port"}, true
	case timeout(err):
		return reason{"protocol", "the guest took the connection and then said nothing in time", "it may be starting, or something between does not let SMB through"}, true
	case wire.Dialect.Load() == smbwire.SpokeNothing && wire.Broken.Load():
		return reason{"protocol", "the guest ended the connection when it was spoken to in SMB 2", "it may speak SMB 1 only, or its firewall looks into connections"}, true
	}
	return reason{}, false
}

var unsignedReason = reason{"signing", "the guest lets the account in as a guest or as nobody, without signatures",
	"check the user; disable the guest account and anonymous access"}

// label is the first part of the guest's name.
func (w *Way) label() string {
	label, _, _ := strings.Cut(w.host, ".")
	return label
}

// kerberosReason tells by the name of the error, which the library has in its text alone.
func (w *Way) kerberosReason(err error) reason {
	text := err.Error()
	for _, known := range []struct{ name, problem, hint string }{
		{"KRB_AP_ERR_SKEW", "clocks are more than five minutes apart", "set the clocks of this machine and of the domain controller"},
		{"KDC_ERR_S_PRINCIPAL_UNKNOWN", "the domain knows no machine of that name", "name the guest in full, as the domain has it; " + w.nameHint()},
		{"KDC_ERR_C_PRINCIPAL_UNKNOWN", "the realm has no such user", "check the user and the realm"},
		{"KDC_ERR_PREAUTH_FAILED", "wrong password", "check the password"},
		{"KDC_ERR_KEY_EXPIRED", "the password has expired", "set a new one"},
		{"KDC_ERR_CLIENT_REVOKED", "the account is disabled or locked", "see to it in the domain"},
		{"KDC_ERR_ETYPE_NOSUPP", "the domain offers no cipher that is taken here", "allow AES for the account"},
		{"KDC_ERR_WRONG_REALM", "that is not the account's realm", "check the realm"},
	} {
		if strings.Contains(text, known.name) {
			return reason{"login", known.problem, known.hint}
		}
	}
	return reason{"login", "no Kerberos ticket can be had: " + words(err), "check the realm, its key distribution centers and port 88 to them"}
}

func (w *Way) nameHint() string {
	if len(w.label()) > 15 {
		return "its first part may have 15 characters at most"
	}
	return "an alias will not do"
}

const (
	statusBadNetworkName = 0xc00000cc
	statusAccessDenied   = 0xc0000022
	statusDiskFull       = 0xc000007f
	statusSharing        = 0xc0000043
	statusDeletePending  = 0xc0000056
	statusNotEmpty       = 0xc0000101
	statusPipeBroken     = 0xc000014b
	statusPipeGone       = 0xc00000b0
	statusPipeClosing    = 0xc00000b1
	statusQuota          = 0xc0000044
)

func status(err error) uint32 {
	var re *smb2.ResponseError
	if errors.As(err, &re) {
		return re.Code
	}
	return 0
}

// explainShare is for a session that does not get at a share.
func (w *Way) explainShare(share string, err error) error {
	switch {
	case errors.Is(err, smbwire.ErrUnsigned):
		return w.because(unsignedReason, err)
	case errors.Is(err, smbwire.ErrNotEncrypted):
		return w.because(reason{"encryption", smbwire.ErrNotEncrypted.Error(), "encrypt with Set-SmbServerConfiguration -EncryptData, or do without"}, err)
	case errors.Is(err, fs.ErrPermission):
		return w.because(w.rights("the account may not use "+share), err)
	case status(err) == statusBadNetworkName || errors.Is(err, fs.ErrNotExist):
		return w.because(reason{"share", "the guest has no " + share,
			"it is made at the start of the Server service unless AutoShareServer or AutoShareWks is 0; a persistent component needs none"}, err)
	}
	return w.because(reason{"share", share + ": " + words(err), "try again; see the guest's event log"}, err)
}

// rights is for an account that was let in and may not do what an administrator may. Remote UAC cuts down local accounts
// alone, and not the built-in Administrator: so far it can be told from an account that is no administrator.
func (w *Way) rights(problem string) reason {
	domain, user := kerberos.Split(w.cred.User)
	local := !strings.Contains(user, "@") && (domain == "" || domain == "." || strings.EqualFold(domain, w.label()))
	switch {
	case !local:
		return reason{"rights", problem, "make it a member of the guest's Administrators"}
	case strings.EqualFold(user, "administrator"):
		return reason{"rights", problem, "check the policy FilterAdministratorToken, which cuts the built-in Administrator down too"}
	}
	return reason{"rights", problem + ": it is no administrator, or remote UAC takes the rights of local accounts away",
		"use the built-in Administrator or a domain account that is an administrator, or set LocalAccountTokenFilterPolicy to 1 in the guest"}
}

// words are an error's, bounded: part of it may be the guest's.
func words(err error) string {
	const most = 300
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x202e {
			return '·'
		}
		return r
	}, err.Error())
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// translate adds what a status means to those who call.
func translate(err error) error {
	meaning := map[uint32]error{
		statusDiskFull: syscall.ENOSPC, statusQuota: syscall.EDQUOT, statusAccessDenied: fs.ErrPermission, statusNotEmpty: syscall.ENOTEMPTY,
	}[status(err)]
	if meaning == nil {
		return err
	}
	return fmt.Errorf("%w: %w", meaning, err)
}
