package hostfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/kerberos"
)

var errNoUser = fmt.Errorf("%w: it has no user", ErrLogon)

// initiator is what logs on to a server, and what lets go of it. Kerberos goes first where a realm is known and the server is
// called by a name; NTLM takes its place where no ticket can be had.
func (l Login) initiator(ctx context.Context, server string) (logon smb2.Initiator, release func(), err error) {
	none := func() {}
	if l.User == "" {
		return nil, none, errNoUser
	}
	if net.ParseIP(server) == nil && (l.Realm != "" || l.Krb5Config != "") {
		initiator, forget, err := l.kerberos(ctx, server)
		if err == nil || !noKerberos(err) || ctx.Err() != nil {
			return initiator, forget, err
		}
	}
	domain, user := kerberos.Split(l.User) // user@realm is one word to NTLM
	return &smb2.NTLMInitiator{User: user, Password: l.Password, Domain: domain}, none, nil
}

// noKerberos reports whether there is no Kerberos here: no realm, nobody to give tickets, or a domain that does not know the
// user or the server. Where the domain has looked at the password and said no, the same once more by NTLM would lock the account
// twice as fast.
func noKerberos(err error) bool {
	text := err.Error()
	unknown := strings.Contains(text, "KDC_ERR_C_PRINCIPAL_UNKNOWN") || strings.Contains(text, "KDC_ERR_S_PRINCIPAL_UNKNOWN")
	unreached := strings.Contains(text, "communicate with KDC") || strings.Contains(text, "communication error with KDC")
	return errors.Is(err, kerberos.ErrNoRealm) || unknown || unreached && !strings.Contains(text, "KDC_ERR_") && !strings.Contains(text, "KRB_AP_ERR_")
}

// kerberos gets a ticket for the server. The library takes no context: what it waits for has limits of its own, and what comes
// too late is let go.
func (l Login) kerberos(ctx context.Context, server string) (smb2.Initiator, func(), error) {
	none := func() {}
	cl, err := kerberos.New(kerberos.Login{User: l.User, Password: l.Password, Realm: l.Realm, Config: l.Krb5Config, KDCs: l.KDCs})
	if err != nil {
		return nil, none, err
	}
	spn := "cifs/" + strings.TrimSuffix(server, ".")
	got := make(chan error, 1)
	go func() {
		_, _, err := cl.GetServiceTicket(spn)
		got <- err
	}()
	select {
	case err = <-got:
	case <-ctx.Done():
		go func() { <-got; cl.Destroy() }()
		return nil, none, fmt.Errorf("a ticket for %s: %w", spn, ctx.Err())
	}
	if err != nil {
		cl.Destroy()
		return nil, none, fmt.Errorf("%w: a ticket for %s: %w", ErrLogon, spn, err)
	}
	return &smb2.Krb5Initiator{Client: cl, TargetSPN: spn}, cl.Destroy, nil
}
