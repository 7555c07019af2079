package sshchannel

import (
	"crypto/ed25519"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// lock is a key with a passphrase.
func lock(t *testing.T, key []byte, passphrase string) []byte {
	t.Helper()
	raw, err := ssh.ParseRawPrivateKey(key)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(*raw.(*ed25519.PrivateKey), "test", []byte(passphrase))
	require.NoError(t, err)
	return pem.EncodeToMemory(block)
}

// Every kind of credential opens a guest, and what is wrong with one is said without showing it.
func TestCredentials(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Accounts: []guesttest.Account{{Name: "ann", Password: "Secret 1"}}})
	other, _ := guesttest.NewKey(t)
	locked := lock(t, h.Key, "Secret 2") // made to be slow, more so with the race detector
	for name, c := range map[string]struct {
		cred guest.Credential
		step string
	}{
		"key":              {cred: guest.Credential{User: "ann", PrivateKey: h.Key}},
		"locked key":       {cred: guest.Credential{User: "ann", PrivateKey: locked, Passphrase: "Secret 2"}},
		"password":         {cred: guest.Credential{User: "ann", Password: "Secret 1"}},
		"password second":  {cred: guest.Credential{User: "ann", PrivateKey: other, Password: "Secret 1"}},
		"wrong password":   {cred: guest.Credential{User: "ann", Password: "Secret 3"}, step: "login"},
		"wrong key":        {cred: guest.Credential{User: "ann", PrivateKey: other}, step: "login"},
		"no passphrase":    {cred: guest.Credential{User: "ann", PrivateKey: locked}, step: "login"},
		"wrong passphrase": {cred: guest.Credential{User: "ann", PrivateKey: locked, Passphrase: "Secret 4"}, step: "login"},
		"no key at all":    {cred: guest.Credential{User: "ann", PrivateKey: []byte("Secret 5")}, step: "login"},
		"nobody":           {cred: guest.Credential{User: "nobody-here", Password: "Secret 1"}, step: "login"},
		"nothing":          {cred: guest.Credential{User: "ann"}, step: "login"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "wrong passphrase" && !long() {
				t.Skip("slow: only in the long tier")
			}
			f := New(h.Addr, c.cred, &Options{KnownHosts: []string{h.KnownHosts}}).Probe(t.Context())
			require.Equal(t, c.step == "", f.Open, f.Problem)
			if c.step != "" {
				require.Equal(t, c.step, f.Step)
				require.NotEmpty(t, f.Hint)
			}
			require.NotContains(t, f.Problem+f.Hint, "Secret")
		})
	}
}

// An SSH agent holds the key; we never see it.
func TestAgent(t *testing.T) {
	h := guesttest.SSHD(t, nil)
	cred := guest.Credential{User: h.User, Agent: true}
	w := New(h.Addr, cred, &Options{KnownHosts: []string{h.KnownHosts}})
	t.Setenv("SSH_AUTH_SOCK", "")
	require.Contains(t, w.Probe(t.Context()).Problem, "SSH_AUTH_SOCK")

	raw, err := ssh.ParseRawPrivateKey(h.Key)
	require.NoError(t, err)
	ring := agent.NewKeyring()
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: raw}))
	socket := filepath.Join(h.Dir, "agent")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			agent.ServeAgent(ring, conn)
			conn.Close()
		}
	})
	t.Setenv("SSH_AUTH_SOCK", socket)
	f := w.Probe(t.Context())
	l.Close()
	group.Wait()
	require.NoError(t, f.Err())
}

// Servers that ask questions are answered once, and only what a password answers.
func TestQuestions(t *testing.T) {
	t.Parallel()
	answer := answerer("Secret")
	got, err := answer("", "", nil, nil)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = answer("", "", []string{"Code: "}, []bool{true})
	require.ErrorIs(t, err, errQuestions)
	_, err = answer("", "", []string{"a", "b"}, []bool{false, false})
	require.ErrorIs(t, err, errQuestions)
	got, err = answer("", "", []string{"Password: "}, []bool{false})
	require.NoError(t, err)
	require.Equal(t, []string{"Secret"}, got)
	_, err = answer("", "", []string{"Password: "}, []bool{false})
	require.ErrorIs(t, err, errQuestions)
}

// Ports that are closed, silent, or somebody else's are told apart.
func TestUnreached(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(strings.Repeat("HTTP/1.1 400 Bad Request\r\n", 10000)))
			conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	for addr, step := range map[string]string{
		l.Addr().String():      "handshake",
		closed.Addr().String(): "connect",
		"no-such-host.invalid": "resolve",
	} {
		f := New(addr, guest.Credential{User: "root", Password: "x"}, nil).Probe(within(t, 5e9))
		require.False(t, f.Open)
		require.Equal(t, step, f.Step, f.Problem)
		require.Equal(t, step == "handshake", f.Reached)
		require.NotEmpty(t, f.Hint)
	}
}
