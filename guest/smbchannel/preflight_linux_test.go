package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/internal/smbwire"
)

const wrongPassword = "Very$ecret99"

// closed probes a way that is expected to be closed.
func closed(t *testing.T, w *Way, step, problem string) guest.Finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	f := w.Probe(ctx)
	require.False(t, f.Open)
	require.Equal(t, step, f.Step, "%+v", f)
	require.Contains(t, f.Problem, problem)
	require.NotEmpty(t, f.Hint)
	_, err := w.Open(ctx)
	for _, text := range []string{fmt.Sprintf("%+v", f), fmt.Sprintf("%+v", err), err.Error()} {
		require.NotContains(t, text, wrongPassword)
		require.NotContains(t, text, smbtest.Password)
	}
	var way *guest.WayError
	require.ErrorAs(t, err, &way)
	require.Equal(t, guest.SMB, way.Kind)
	return f
}

// R129, R157: why a guest cannot be reached, in words, and what to change.
func TestPreflight(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	f := wayTo(g.Samba, nil).Probe(t.Context())
	require.True(t, f.Open, "%+v", f)
	require.True(t, f.System.Admin)
	require.Empty(t, g.Left(), "a probe leaves nothing")

	user := func(name string) *Way {
		return New(g.HostPort(), guest.Credential{User: name, Password: wrongPassword}, nil)
	}
	closed(t, user(g.User), "login", "wrong user or wrong password")
	closed(t, user("nobody-here"), "login", "wrong user or wrong password")
	closed(t, user(""), "login", "no user")
	closed(t, New(g.HostPort(), guest.Credential{User: "gmsa$", ManagedAccount: true}, nil), "login", "proxy on Windows")
	closed(t, New("127.0.0.1", guest.Credential{User: "u@EXAMPLE.ORG", KerberosOnly: true}, nil), "login", "by its address")
	closed(t, New("guest.example.invalid:445", guest.Credential{User: "u", KerberosOnly: true}, nil), "login", "needs a realm")
	closed(t, wayTo(g.Samba, &Options{RequireEncryption: true}), "encryption", "does not encrypt")
	require.False(t, closed(t, New("127.0.0.1:1", guest.Credential{User: "u"}, nil), "connect", "closes its port 1").Reached)
	require.False(t, closed(t, New("guest.invalid", guest.Credential{User: "u"}, nil), "resolve", "guest.invalid").Reached)

	// Rights are there or not at each of three doors.
	g.Machine.Intercept(func(procedure uint16, _ string) error {
		if procedure == scm.OpenSCManagerW {
			return &scm.Error{Code: scm.AccessDenied}
		}
		return nil
	}, nil)
	closed(t, wayTo(g.Samba, nil), "rights", "remote UAC")
	g.Machine.Intercept(func(uint16, string) error { return &rpc.Fault{Status: rpc.FaultAccessDenied} }, nil)
	closed(t, wayTo(g.Samba, nil), "rights", "may not make services")
	g.Machine.Intercept(nil, nil)
	require.NoError(t, g.SetMachine(0x5032))
	closed(t, wayTo(g.Samba, nil), "system", "machine 0x5032")
	require.NoError(t, g.SetMachine(0xaa64))
	require.Equal(t, "arm64", wayTo(g.Samba, nil).Probe(t.Context()).System.Arch)
}

// An account that Samba lets in and keeps off ADMIN$ is what a guest with remote UAC makes of a local administrator.
func TestNoRights(t *testing.T) {
	s := smbtest.StartSamba(t, smbtest.Settings{Admin: []string{"valid users = somebody"}})
	f := closed(t, wayTo(s, nil), "rights", "may not use ADMIN$")
	require.Contains(t, f.Problem, "remote UAC")
	require.Contains(t, f.Hint, "LocalAccountTokenFilterPolicy")
	require.True(t, f.Reached)
}

func TestNoAdminShare(t *testing.T) {
	s := smbtest.StartSamba(t, smbtest.Settings{NoAdmin: true})
	require.Contains(t, closed(t, wayTo(s, nil), "share", "no ADMIN$").Hint, "AutoShareServer")
}

// A server that lets unknown users in as guests would let anybody be put in its place: it does not sign.
func TestGuestAccount(t *testing.T) {
	s := smbtest.StartSamba(t, smbtest.Settings{Global: []string{"map to guest = bad user", "guest account = root", "server signing = auto"}})
	w := New(s.HostPort(), guest.Credential{User: "unknown", Password: wrongPassword}, nil)
	closed(t, w, "signing", "without signatures")
}

func TestNTLMOff(t *testing.T) {
	s := smbtest.StartSamba(t, smbtest.Settings{Global: []string{"ntlm auth = disabled"}})
	require.Contains(t, closed(t, wayTo(s, nil), "login", "NTLM is blocked").Hint, "Kerberos")
}

// The words for what Samba does not do.
func TestReasons(t *testing.T) {
	local := New("web1.example.org", guest.Credential{User: `WEB1\backup`}, nil)
	require.Contains(t, local.rights("no").problem, "remote UAC")
	domain := New("web1.example.org", guest.Credential{User: `EXAMPLE\backup`}, nil)
	require.NotContains(t, domain.rights("no").problem, "remote UAC", "domain accounts are not cut down")
	require.Contains(t, New("web1", guest.Credential{User: "Administrator"}, nil).rights("no").hint, "FilterAdministratorToken")

	long := New("a-very-long-machine-name.example.org", guest.Credential{User: "u@EXAMPLE.ORG", KerberosOnly: true}, nil)
	for text, want := range map[string]string{
		"KRB Error: (37) KRB_AP_ERR_SKEW Clock skew too great":                  "clocks",
		"KRB Error: (7) KDC_ERR_S_PRINCIPAL_UNKNOWN Server not found in Kerber": "no machine of that name",
		"KRB Error: (24) KDC_ERR_PREAUTH_FAILED Pre-authentication information": "wrong password",
		"dial udp: no route": "no Kerberos ticket",
	} {
		var way *guest.WayError
		require.ErrorAs(t, long.explainLogin(fmt.Errorf("%w: %s", errKerberos, text), nil), &way)
		require.Contains(t, way.Problem, want)
	}
	require.Contains(t, long.nameHint(), "15 characters")
	for code, r := range logons {
		wire := &smbwire.Wire{}
		wire.Status.Store(code)
		var way *guest.WayError
		require.ErrorAs(t, long.explainLogin(errors.New("x"), wire), &way)
		require.Equal(t, r.problem, way.Problem)
		require.NotEmpty(t, r.hint, "%#x", code)
	}
}

// fake answers the first message of a connection with what it is given, and ends.
func fake(t *testing.T, answer func(net.Conn)) *Way {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 4)
			_, _ = io.ReadFull(c, head)
			answer(c)
			_ = c.Close()
		}
	}()
	return New(l.Addr().String(), guest.Credential{User: "u", Password: wrongPassword}, &Options{Timeout: 200 * time.Millisecond})
}

// What is no server for us is told apart from one that refuses.
func TestOtherServers(t *testing.T) {
	closed(t, fake(t, func(c net.Conn) {
		_, _ = c.Write([]byte{0, 0, 0, 35})
		_, _ = c.Write(append([]byte{0xff, 'S', 'M', 'B', 0x72}, make([]byte, 30)...))
	}), "protocol", "SMB 1 only")
	closed(t, fake(t, func(net.Conn) {}), "protocol", "ended the connection")
	closed(t, fake(t, func(c net.Conn) {
		_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("x", 1<<20)))
	}), "protocol", "does not speak SMB")
	closed(t, fake(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "protocol", "")
}
