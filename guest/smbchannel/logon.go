package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/kerberos"
)

// Why nobody can log on, before anything was sent.
var (
	errNoUser   = errors.New("the credential has no user")
	errManaged  = errors.New("a group managed service account can be used only by a proxy on Windows in its domain")
	errAddress  = errors.New("Kerberos knows machines by name, and the guest was given by its address") //lint:ignore ST1005 a name
	errKerberos = errors.New("no Kerberos ticket for the guest")
)

// initiator is what logs on, what lets go of it, and why it is NTLM where Kerberos was to go first. Kerberos goes first where a realm is known; NTLM takes its place
// where no ticket can be had, unless that is forbidden.
func (w *Way) initiator(ctx context.Context) (logon smb2.Initiator, release func(), instead string, err error) {
	c := w.cred
	none := func() {}
	switch {
	case c.User == "":
		return nil, none, "", errNoUser
	case c.ManagedAccount:
		return nil, none, "", errManaged
	}
	byName := net.ParseIP(w.host) == nil
	if c.KerberosOnly && !byName {
		return nil, none, "", errAddress
	}
	if c.KerberosOnly || byName && (c.Realm != "" || c.Config != "") {
		initiator, forget, err := w.kerberos(ctx)
		if err == nil || c.KerberosOnly || !noKerberos(err) || ctx.Err() != nil {
			return initiator, forget, "", err
		}
		instead = "logged on by NTLM: " + w.kerberosReason(err).problem
		if errors.Is(err, kerberos.ErrNoRealm) {
			instead = "logged on by NTLM: " + kerberos.ErrNoRealm.Error()
		}
	}
	domain, user := kerberos.Split(c.User) // user@realm is one word to NTLM
	return &smb2.NTLMInitiator{User: user, Password: c.Password, Domain: domain}, none, instead, nil
}

// noKerberos reports whether there is no Kerberos here: no realm, nobody to give tickets, or a domain that does not know the
// user or the guest. Whatever else went wrong is a fault to be told, and no reason to do with less. Where the domain has
// looked at the password and said no, the same once more by NTLM would lock the account twice as fast.
func noKerberos(err error) bool {
	text := err.Error()
	unknown := strings.Contains(text, "KDC_ERR_C_PRINCIPAL_UNKNOWN") || strings.Contains(text, "KDC_ERR_S_PRINCIPAL_UNKNOWN")
	unreached := strings.Contains(text, "communicate with KDC") || strings.Contains(text, "communication error with KDC")
	return errors.Is(err, kerberos.ErrNoRealm) || unknown || unreached && !strings.Contains(text, "KDC_ERR_") && !strings.Contains(text, "KRB_AP_ERR_")
}

// kerberos gets a ticket for the guest. The library takes no context: what it waits for has limits of its own, and what
// comes too late is let go.
func (w *Way) kerberos(ctx context.Context) (smb2.Initiator, func(), error) {
	c := w.cred
	cl, err := kerberos.New(kerberos.Login{User: c.User, Password: c.Password, Realm: c.Realm, Config: c.Config, KDCs: c.KDCs})
	if err != nil {
		return nil, func() {}, err
	}
	spn := "cifs/" + strings.TrimSuffix(w.host, ".")
	got := make(chan error, 1)
	go func() {
		_, _, err := cl.GetServiceTicket(spn)
		got <- err
	}()
	select {
	case err = <-got:
	case <-ctx.Done():
		go func() { <-got; cl.Destroy() }()
		return nil, func() {}, fmt.Errorf("%w: %w", errKerberos, context.Cause(ctx))
	}
	if err != nil {
		cl.Destroy()
		return nil, func() {}, fmt.Errorf("%w: %w", errKerberos, err)
	}
	return &smb2.Krb5Initiator{Client: cl, TargetSPN: spn}, cl.Destroy, nil
}
