package hostfs_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv/hostfs"
)

// In a domain that knows no NTLM, Kerberos opens files by a server's full name; a wrong password is one, and is not tried again.
func TestKerberos(t *testing.T) {
	if !longTier() {
		t.Skip("a whole domain is for HIKAE_TEST_TIER=long")
	}
	if !smbtest.Alone(t) {
		return
	}
	d := smbtest.StartDomain(t)
	store := func(login hostfs.Login) *hostfs.Store {
		s, err := hostfs.New(hostfs.Options{
			Machine: smbtest.Controller, Timeout: 20 * time.Second,
			Login: func(context.Context, string) (hostfs.Login, error) { return login, nil },
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, d.HostPort)
			},
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	const library = `\\` + smbtest.Controller + `\ADMIN$\System32\ntdll.dll`
	login := hostfs.Login{User: `HIKAE\Administrator`, Password: smbtest.Password, Realm: smbtest.Realm, KDCs: []string{d.KDC}}
	s := store(login)
	img, err := s.Open(t.Context(), library)
	for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		img, err = s.Open(t.Context(), library) // the controller takes a while to know its users
	}
	require.NoError(t, err)
	head := make([]byte, 2)
	_, err = img.ReadAt(t.Context(), head, 0)
	require.NoError(t, err)
	require.Equal(t, "MZ", string(head))
	require.NoError(t, img.Close())

	login.Password = "wrong"
	_, err = store(login).Open(t.Context(), library)
	require.ErrorIs(t, err, hostfs.ErrLogon)
	login.Password, login.Realm = smbtest.Password, ""
	_, err = store(login).Open(t.Context(), library)
	require.Error(t, err, "NTLM is off")
}
