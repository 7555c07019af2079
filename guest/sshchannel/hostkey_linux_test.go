package sshchannel

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func file(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

// A host's key is known, unknown, changed or revoked, and these are told apart.
func TestHostKeys(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	_, other := guesttest.NewKey(t)
	good, wrong := knownhosts.Line([]string{h.Addr}, h.HostKey), knownhosts.Line([]string{h.Addr}, other)
	print := ssh.FingerprintSHA256(h.HostKey)
	for name, c := range map[string]struct {
		opts             Options
		ok               bool
		changed, revoked bool
	}{
		"known":           {opts: Options{KnownHosts: []string{file(t, good)}}, ok: true},
		"one of two":      {opts: Options{KnownHosts: []string{file(t, "# words"), file(t, good)}}, ok: true},
		"pinned":          {opts: Options{Fingerprints: []string{print}}, ok: true},
		"nothing":         {opts: Options{}},
		"unknown":         {opts: Options{KnownHosts: []string{file(t, "# nobody")}}},
		"changed":         {opts: Options{KnownHosts: []string{file(t, wrong)}}, changed: true},
		"changed, trust":  {opts: Options{KnownHosts: []string{file(t, wrong)}, TrustFirst: filepath.Join(t.TempDir(), "k")}, changed: true},
		"revoked":         {opts: Options{KnownHosts: []string{file(t, good, "@revoked * "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(h.HostKey))))}}, revoked: true},
		"another pin":     {opts: Options{Fingerprints: []string{ssh.FingerprintSHA256(other)}}, changed: true},
		"pin before file": {opts: Options{Fingerprints: []string{ssh.FingerprintSHA256(other)}, KnownHosts: []string{file(t, good)}}, changed: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &c.opts)
			ch, err := w.Open(within(t, 20*time.Second))
			if c.ok {
				require.NoError(t, err)
				require.NoError(t, ch.Close())
				return
			}
			var bad *HostKeyError
			var way *guest.WayError
			require.ErrorAs(t, err, &way)
			require.Equal(t, "host key", way.Step)
			require.NotEmpty(t, way.Hint)
			if !errors.As(err, &bad) { // no key of the kind that the pin was made for
				require.True(t, c.changed)
				return
			}
			require.Equal(t, c.changed, bad.Changed, bad)
			require.Equal(t, c.revoked, bad.Revoked, bad)
			require.Equal(t, print, bad.Got)
		})
	}
}

// Trust on first use happens where it was asked for, is written down, and is held to.
func TestTrustFirst(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	path := filepath.Join(t.TempDir(), "learned")
	w := New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &Options{TrustFirst: path})
	for range 2 {
		open(t, w)
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), "\n"))
	_, other := guesttest.NewKey(t)
	require.NoError(t, os.WriteFile(path, []byte(knownhosts.Line([]string{h.Addr}, other)+"\n"), 0o600))
	_, err = w.Open(within(t, 20*time.Second))
	var bad *HostKeyError
	require.ErrorAs(t, err, &bad)
	require.True(t, bad.Changed)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(after), string(ssh.MarshalAuthorizedKey(h.HostKey)))
}

// A server with several keys shows the one that is known: another kind of key is no change.
func TestKindsOfKeys(t *testing.T) {
	t.Parallel()
	secret, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(secret, "test")
	require.NoError(t, err)
	public, err := ssh.NewPublicKey(secret.Public())
	require.NoError(t, err)
	both := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{"HostKey {base}/rsa"},
		Files: map[string][]byte{"rsa": pem.EncodeToMemory(block)}})
	for _, opts := range []Options{
		{KnownHosts: []string{file(t, knownhosts.Line([]string{both.Addr}, public))}},
		{KnownHosts: []string{both.KnownHosts}},
		{Fingerprints: []string{ssh.FingerprintSHA256(public)}},
		{Fingerprints: []string{ssh.FingerprintSHA256(both.HostKey)}},
	} {
		open(t, New(both.Addr, guest.Credential{User: both.User, PrivateKey: both.Key}, &opts))
	}
}

// An authority signs hosts' keys; what it did not sign, or signed for another name or time, is refused.
func TestAuthority(t *testing.T) {
	t.Parallel()
	caPrivate, caPublic := guesttest.NewKey(t)
	ca, err := ssh.ParsePrivateKey(caPrivate)
	require.NoError(t, err)
	line := "@cert-authority [127.0.0.1]:* " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(caPublic)))
	_, stranger := guesttest.NewKey(t)
	for name, c := range map[string]struct {
		names []string
		until time.Duration
		lines []string
		ok    bool
	}{
		"signed":            {names: []string{"127.0.0.1"}, until: time.Hour, lines: []string{line}, ok: true},
		"out of date":       {names: []string{"127.0.0.1"}, until: -time.Hour, lines: []string{line}},
		"another name":      {names: []string{"elsewhere"}, until: time.Hour, lines: []string{line}},
		"another authority": {names: []string{"127.0.0.1"}, until: time.Hour, lines: []string{strings.Replace(line, string(line[strings.LastIndex(line, " "):]), " "+strings.Fields(string(ssh.MarshalAuthorizedKey(stranger)))[1], 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			private, public := guesttest.NewKey(t)
			cert := &ssh.Certificate{Key: public, CertType: ssh.HostCert, ValidPrincipals: c.names,
				ValidAfter: uint64(time.Now().Add(-2 * time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(c.until).Unix())}
			require.NoError(t, cert.SignCert(rand.Reader, ca))
			h := guesttest.SSHD(t, &guesttest.SSHDOptions{
				Settings: []string{"HostKey {base}/signed", "HostCertificate {base}/signed-cert.pub"},
				Files:    map[string][]byte{"signed": private, "signed-cert.pub": ssh.MarshalAuthorizedKey(cert)}})
			lines := []string{strings.Replace(c.lines[0], "[127.0.0.1]:*", knownhosts.Normalize(h.Addr), 1)}
			w := New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &Options{KnownHosts: []string{file(t, lines...)}})
			ch, err := w.Open(within(t, 20*time.Second))
			if c.ok {
				require.NoError(t, err)
				require.NoError(t, ch.Close())
				return
			}
			var bad *HostKeyError
			require.ErrorAs(t, err, &bad)
		})
	}
}
