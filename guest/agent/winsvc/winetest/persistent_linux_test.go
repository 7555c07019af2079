package winetest

import (
	"context"
	"crypto/ed25519"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/install"
)

// R127, R128, R130: the installer service is set up from a kit by the service control manager's rules, answers a controller
// on its one port, is upgraded in place, and ends when that controller says so.
func TestPersistent(t *testing.T) {
	m := boot(t)
	exe := build(t, "build", "-trimpath", "-ldflags=-s -w", "github.com/hikae/hikae/guest/agent/hikae-agent")
	m.stayUp(t)

	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	c, err := install.OpenController(filepath.Join(t.TempDir(), "controller"))
	require.NoError(t, err)
	address := freePort(t)
	kit, err := c.NewKit(&install.KitOptions{Signers: []ed25519.PublicKey{public}, Listen: address, Lifetime: time.Hour})
	require.NoError(t, err)
	text, err := kit.Encode()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(m.path("kit.json"), text, 0o600))

	const dir = `C:\hikae-agent`
	install := func() {
		out, err := m.run(t, wine, exe, "service", "install", "--kit", `C:\kit.json`, "--dir", dir)
		require.NoError(t, err, out)
	}
	install()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	known, err := c.Enrol(ctx, "wine", address)
	require.NoError(t, err)
	require.NotEmpty(t, known.Pin)
	f := c.Guest("wine", address, nil).Probe(ctx)
	require.True(t, f.Installer && f.Certificates, "%+v", f)
	install() // an upgrade: the same key, the same controller
	again, err := c.Known("wine")
	require.NoError(t, err)
	require.Equal(t, known.Pin, again.Pin)
	require.True(t, c.Guest("wine", address, nil).Probe(ctx).Installer)

	// It ends. Its folder stays here: wine cannot do what os.RemoveAll asks for.
	require.NoError(t, c.Remove(ctx, "wine"))
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 30*time.Second, 200*time.Millisecond)
}

// path is a file on drive C.
func (m *machine) path(names ...string) string {
	return filepath.Join(append([]string{m.prefix, "drive_c"}, names...)...)
}

// stayUp keeps a program running: wine ends its services with the last one.
func (m *machine) stayUp(t *testing.T) {
	t.Helper()
	cmd := exec.Command(wine, "cmd.exe") // waits for words
	cmd.Env = m.env
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return strings.TrimSpace(l.Addr().String())
}
