package kerberos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoLogsOnWhere(t *testing.T) {
	for _, c := range []struct{ l, want Login }{
		{Login{User: "eva@corp.example"}, Login{User: "eva", Realm: "CORP.EXAMPLE"}},
		{Login{User: "eva@corp.example", Realm: "other.example"}, Login{User: "eva", Realm: "OTHER.EXAMPLE"}},
		{Login{User: `corp.example\eva`}, Login{User: "eva", Realm: "CORP.EXAMPLE"}},
		{Login{User: `CORP\eva`, Realm: "corp.example"}, Login{User: "eva", Realm: "CORP.EXAMPLE"}},
		{Login{User: "eva", Config: "[libdefaults]\n default_realm = CORP.EXAMPLE\n"}, Login{User: "eva", Realm: "CORP.EXAMPLE"}},
	} {
		cl, err := New(c.l)
		require.NoError(t, err)
		require.Equal(t, c.want.User, cl.Credentials.UserName(), c.l.User)
		require.Equal(t, c.want.Realm, cl.Credentials.Domain(), c.l.User)
		cl.Destroy()
	}
	for _, user := range []string{"eva", `CORP\eva`} {
		_, err := New(Login{User: user})
		require.ErrorIs(t, err, ErrNoRealm)
	}
	_, err := New(Login{User: "eva", Config: "[libdefaults\n default_realm ="})
	require.Error(t, err)
}

func TestWhereTicketsAreGiven(t *testing.T) {
	cl, err := New(Login{User: "eva@corp.example", KDCs: []string{"dc1", "dc2:8888", "::1"}})
	require.NoError(t, err)
	defer cl.Destroy()
	require.Equal(t, []string{"dc1:88", "dc2:8888", "[::1]:88"}, cl.Config.Realms[0].KDC)
	require.False(t, cl.Config.LibDefaults.DNSLookupKDC)
}
