package sshchannel

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func certified(t *testing.T, key ssh.PublicKey, ca ssh.Signer, until uint64, host string) *ssh.Certificate {
	c := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: []string{host}, ValidBefore: until}
	require.NoError(t, c.SignCert(rand.Reader, ca))
	return c
}

func signerOf(t *testing.T) ssh.Signer {
	text, _ := guesttest.NewKey(t)
	s, err := ssh.ParsePrivateKey(text)
	require.NoError(t, err)
	return s
}

// An authority is known for the host, and TrustFirst is set for other hosts. Somebody in between shows a certificate of
// an authority of his own.
func TestForeignCertificateIsNoStranger(t *testing.T) {
	good, evil, evilHost := signerOf(t), signerOf(t), signerOf(t)
	ca := "@cert-authority *.corp " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(good.PublicKey())))
	for name, c := range map[string]struct {
		key   ssh.PublicKey
		lines []string
	}{
		"plain (for comparison)": {evilHost.PublicKey(), []string{ca}},
		"foreign authority":      {certified(t, evilHost.PublicKey(), evil, ssh.CertTimeInfinity, "web.corp"), []string{ca}},
		"out of date":            {certified(t, evilHost.PublicKey(), good, 1000, "web.corp"), []string{ca}},
		"another host's":         {certified(t, evilHost.PublicKey(), good, ssh.CertTimeInfinity, "db.corp"), []string{ca}},
		"revoked": {certified(t, evilHost.PublicKey(), good, ssh.CertTimeInfinity, "web.corp"), []string{ca,
			"@revoked * " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(evilHost.PublicKey())))}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &hostKeys{addr: "web.corp:22", opts: &Options{KnownHosts: []string{file(t, c.lines...)}, TrustFirst: filepath.Join(t.TempDir(), "first")}}
			a, err := k.attempts()
			require.NoError(t, err)
			t.Log(a[0][:2])
			require.Error(t, k.check("", nil, c.key), "it is trusted, and its key written down")
		})
	}
}

// the same over a real handshake: the password goes to who is in between.
func TestPasswordStaysHere(t *testing.T) {
	good, evil, evilHost := signerOf(t), signerOf(t), signerOf(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var password atomic.Value
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		signer, err := ssh.NewCertSigner(certified(t, evilHost.PublicKey(), evil, ssh.CertTimeInfinity, "127.0.0.1"), evilHost)
		if err != nil {
			return
		}
		s := &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			password.Store(string(p))
			return nil, errors.New("no")
		}}
		s.AddHostKey(signer)
		_, _, _, _ = ssh.NewServerConn(conn, s)
	})
	port := l.Addr().String()
	ca := "@cert-authority [127.0.0.1]:" + port[strings.LastIndex(port, ":")+1:] + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(good.PublicKey())))
	w := New(port, guest.Credential{User: "root", Password: "the-secret"}, &Options{KnownHosts: []string{file(t, ca)}, TrustFirst: filepath.Join(t.TempDir(), "first")})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = w.Open(ctx)
	t.Log(err)
	_ = l.Close()
	wg.Wait()
	require.Nil(t, password.Load(), "the man in the middle has the password")
}

// cutter closes a connection after some bytes from the server.
type cutter struct {
	net.Conn
	left *atomic.Int64
}

func (c cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		c.Conn.Close()
		return 0, errors.New("cut")
	}
	return n, err
}

// R190: the link breaks in a deployment: one reconnect.
func TestBrokenDeploymentIsMadeAnew(t *testing.T) {
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	for _, bytes := range []int64{6000, 8000, 10000, 12000} {
		var dials atomic.Int64
		left := &atomic.Int64{}
		left.Store(bytes)
		w := New(h.Addr, guest.Credential{User: "root", PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts},
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if n := dials.Add(1); err == nil && n == 1 {
					return cutter{conn, left}, nil
				}
				return conn, err
			}})
		here := &guest.Here{Guest: "web1", Ways: []guest.Way{w}, Programs: programs}
		d, err := here.Deploy(within(t, 60*time.Second), []guest.Kind{guest.SSH}, nil)
		t.Logf("cut after %d bytes: dials %d, err %v", bytes, dials.Load(), err)
		if err == nil {
			require.NoError(t, d.Remove(within(t, 20*time.Second)))
		} else {
			t.Errorf("no reconnect of the deployment after %d bytes", bytes)
		}
	}
}

// Names of hosts are the same in capitals; another key is known for this one.
func TestNamesInCapitals(t *testing.T) {
	known, evil := signerOf(t), signerOf(t)
	w := New("WEB.corp", guest.Credential{}, nil)
	k := &hostKeys{addr: w.addr, opts: &Options{KnownHosts: []string{file(t, knownhosts.Line([]string{"web.corp"}, known.PublicKey()))}, TrustFirst: filepath.Join(t.TempDir(), "first")}}
	require.NoError(t, k.check("", nil, known.PublicKey()))
	require.Error(t, k.check("", nil, evil.PublicKey()))
}
