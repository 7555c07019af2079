package smbchannel

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// long reports whether the tests that take longer are wanted too.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// A domain that knows no NTLM: Kerberos gets in, by the guest's full name alone, and what goes wrong is told apart.
func TestKerberos(t *testing.T) {
	if !long() {
		t.Skip("a whole domain is for HIKAE_TEST_TIER=long")
	}
	if !smbtest.Alone(t) {
		return
	}
	d := smbtest.StartDomain(t)
	cred := guest.Credential{User: `HIKAE\Administrator`, Password: smbtest.Password, KerberosOnly: true, Realm: smbtest.Realm, KDCs: []string{d.KDC}}
	opts := &Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, d.HostPort)
	}}
	to := func(host string, change func(*guest.Credential)) *Way {
		c := cred
		change(&c)
		return New(host, c, opts)
	}
	none := func(*guest.Credential) {}
	f := to(smbtest.Controller, none).Probe(t.Context())
	for end := time.Now().Add(20 * time.Second); !f.Open && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		f = to(smbtest.Controller, none).Probe(t.Context()) // the controller takes a while to know its users
	}
	require.True(t, f.Open, "%+v", f)
	require.Equal(t, "DC1", f.System.Name)

	byName := to(smbtest.Controller, func(c *guest.Credential) { c.User, c.Realm = "administrator@hikae.test", "" })
	require.True(t, byName.Probe(t.Context()).Open)
	config := "[libdefaults]\n default_realm = HIKAE.TEST\n[realms]\n HIKAE.TEST = {\n  kdc = " + d.KDC + "\n }\n"
	byConfig := to(smbtest.Controller, func(c *guest.Credential) { c.Realm, c.KDCs, c.Config = "", nil, config })
	require.True(t, byConfig.Probe(t.Context()).Open)

	closed(t, to(smbtest.Controller, func(c *guest.Credential) { c.Password = wrongPassword }), "login", "wrong password")
	closed(t, to(smbtest.Controller, func(c *guest.Credential) { c.Password, c.KerberosOnly = wrongPassword, false }), "login", "wrong password")
	closed(t, to(smbtest.Controller, func(c *guest.Credential) { c.User = "nobody" }), "login", "no such user")
	closed(t, to("other.hikae.test", none), "login", "no machine of that name")
	closed(t, to("10.99.0.1", none), "login", "by its address")
	closed(t, to(smbtest.Controller, func(c *guest.Credential) { c.KDCs = []string{"127.0.0.1:1"} }), "login", "no Kerberos ticket")
	closed(t, to(smbtest.Controller, func(c *guest.Credential) { c.KerberosOnly, c.Realm = false, "" }), "login", "NTLM is blocked")
}
