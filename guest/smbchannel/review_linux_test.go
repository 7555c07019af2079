package smbchannel

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/internal/kerberos"
)

// A service that is there already is another call's: it is neither taken nor taken away.
func TestOthersService(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	for _, name := range []string{p.Name, p.Name + "-run"} {
		require.NoError(t, c.services.Create(t.Context(), scm.Service{Name: name, Display: name, Command: "another's"}))
	}
	_, err := c.Launch(t.Context(), p)
	require.ErrorIs(t, err, fs.ErrExist)
	require.NotErrorIs(t, err, guest.ErrLeftover)
	r, err := c.Run(t.Context(), p.Path, []string{"sweep"}, nil) // under another name
	require.NoError(t, err)
	require.Equal(t, 7, r.ExitCode)
	require.Equal(t, []string{p.Name, p.Name + "-run"}, g.Machine.Names())

	// What an earlier process left of its runs, Clean finds.
	require.NoError(t, c.services.Create(t.Context(), scm.Service{Name: runName(p.Name, maxRuns-1), Display: "x", Command: "left"}))
	left, err := c.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, g.Left())
}

// Runs at the same time have services of their own.
func TestRunsTogether(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			r, err := c.Run(t.Context(), p.Path, []string{"sweep"}, nil)
			if err == nil && r.ExitCode != 7 {
				err = fmt.Errorf("exit code %d", r.ExitCode)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Empty(t, g.Machine.Names())
}

// A program of another name than its folder's would have a service that is not its own stopped.
func TestOtherName(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	for _, bad := range []guest.Program{
		{Name: "LanmanServer", Path: p.Path}, {Name: p.Name + "x", Path: p.Path}, {Name: "", Path: p.Path},
		{Name: p.Name, Path: smbtest.Root + `\` + p.Name}, {Name: p.Name, Path: smbtest.Root + `\` + p.Name + `\sub\hikae-agent.exe`},
	} {
		_, err := c.Launch(t.Context(), bad)
		require.ErrorIs(t, err, fs.ErrInvalid)
		_, err = c.Clean(t.Context(), bad)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Len(t, g.Left(), 1)
}

// Whatever a caller takes, no size panics and no read goes on for ever.
func TestDownloadBounds(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	dir := smbtest.Root + `\hikae-bounds`
	require.NoError(t, c.MakeDir(t.Context(), dir))
	require.NoError(t, c.Upload(t.Context(), dir+`\a`, []byte("abc"), 0o700))
	require.NoError(t, c.Upload(t.Context(), dir+`\b`, nil, 0o700))
	got, err := c.Download(t.Context(), dir+`\a`, math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, "abc", string(got))
	for _, most := range []int64{-1, math.MinInt64, 0} {
		_, err = c.Download(t.Context(), dir+`\a`, most)
		require.ErrorContains(t, err, "longer than 0")
		got, err = c.Download(t.Context(), dir+`\b`, most)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

// Encryption is demanded of both shares, and of all that is sent after they were reached.
func TestRequireEncryption(t *testing.T) {
	demand := &Options{RequireEncryption: true}
	one := smbtest.StartSamba(t, smbtest.Settings{Admin: []string{"smb encrypt = required"}})
	closed(t, wayTo(one, demand), "encryption", "does not encrypt")

	g := smbtest.StartGuest(t, smbtest.Settings{Global: []string{"smb encrypt = required"}}, echo)
	c, err := wayTo(g.Samba, demand).open(t.Context())
	require.NoError(t, err)
	defer c.Close()
	p := program()
	bring(t, c, p)
	stream, err := c.Launch(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, stream.Close())
	left, err := c.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.True(t, c.link.line.Sealed.Load())
}

// NTLM takes Kerberos' place only where there is no Kerberos.
func TestInstead(t *testing.T) {
	for text, none := range map[string]bool{
		"[Root cause: Networking_Error] AS Exchange Error: failed to communicate with KDC. Attempts made with UDP (x)": true,
		"communication error with KDC via TCP: no KDC SRV records found for realm X":                                   true,
		"KRB Error: (7) KDC_ERR_S_PRINCIPAL_UNKNOWN":                                                                   true,
		"KRB Error: (6) KDC_ERR_C_PRINCIPAL_UNKNOWN":                                                                   true,
		"KRB Error: (24) KDC_ERR_PREAUTH_FAILED":                                                                       false,
		"KRB Error: (18) KDC_ERR_CLIENT_REVOKED":                                                                       false,
		"KRB Error: (37) KRB_AP_ERR_SKEW":                                                                              false,
		"KRB Error: (14) KDC_ERR_ETYPE_NOSUPP":                                                                         false,
		"AS_REP is not valid":                                                                                          false,
		"krb5.conf: cannot be read":                                                                                    false,
	} {
		require.Equal(t, none, noKerberos(fmt.Errorf("%w: %s", errKerberos, text)), text)
	}
	require.True(t, noKerberos(kerberos.ErrNoRealm))

	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	_, port, err := net.SplitHostPort(g.HostPort())
	require.NoError(t, err)
	cred := guest.Credential{User: g.User, Password: smbtest.Password, Realm: "NONE.INVALID", KDCs: []string{"127.0.0.1:1"}}
	f := New("localhost:"+port, cred, nil).Probe(t.Context())
	require.True(t, f.Open, "%+v", f)
	require.Contains(t, f.Problem, "logged on by NTLM: no Kerberos ticket")
	cred.Password = wrongPassword
	closed(t, New("localhost:"+port, cred, nil), "login", "logged on by NTLM")
	cred.Config = "[libdefaults]\n default_realm"
	require.NotContains(t, closed(t, New("localhost:"+port, cred, nil), "login", "krb5.conf").Problem, "NTLM")
}
