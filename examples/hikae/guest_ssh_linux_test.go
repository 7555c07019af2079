package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest/guesttest"
)

// keyed is a machine that reaches a real server by a key of its own.
func keyed(t *testing.T, h *guesttest.Host) (m *machine, key []string) {
	t.Helper()
	m = newMachine(t)
	m.env["HIKAE_AGENT_DIR"] = guesttest.Agents(t)
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, h.Key, 0o600))
	return m, []string{"--ssh-key", file, "--known-hosts", h.KnownHosts}
}

// docOf runs a command that must succeed, or end with that status, and reads what it prints for scripts.
func (m *machine) docOf(t *testing.T, want outcome.Status, args ...string) (doc map[string]any, said string) {
	t.Helper()
	var out, errs strings.Builder
	tl := &tool{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(k string) string { return m.env[k] }}
	status := tl.run(t.Context(), append(args, "--json"))
	require.Equal(t, want, status, "hikae %s: %s%s", strings.Join(args, " "), out.String(), errs.String())
	require.NoError(t, json.Unmarshal([]byte(out.String()), &doc), "%s%s", out.String(), errs.String())
	return doc, errs.String()
}

// diskIn is a file system of the guest's own, which alone is frozen.
const diskIn = "mkdir -p /root/mnt; truncate -s 64M /root/disk; mkfs.ext4 -q -F /root/disk; mount -o loop /root/disk /root/mnt"

// R119, R120, R121, R183, R188: what a new user types, against a real SSH server: probe, deploy, freeze, and nothing is
// left.
func TestGuestBySSH(t *testing.T) {
	guesttest.Program(t, "mkfs.ext4")
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true, Setup: diskIn})
	m, key := keyed(t, h)
	url := "ssh://root@" + h.Addr
	with := func(args ...string) []string { return append(append([]string{"guest"}, args...), append(key, url)...) }

	doc, _ := m.docOf(t, outcome.Done, with("probe")...)
	require.Equal(t, []any{"ssh"}, doc["order"])
	text := m.must(t, with("probe")...)
	require.Contains(t, text, "root (administrator)")
	require.Contains(t, text, "seen from")

	doc, _ = m.docOf(t, outcome.Done, with("deploy")...)
	require.Equal(t, true, doc["removed"])
	require.Empty(t, h.Left())

	status, text := m.run(t, with("freeze-test", "--mount", "/root/mnt")...)
	require.Equal(t, outcome.Misused, status)
	require.Contains(t, text, "Add --yes.")
	// What was left out by --mount is a warning.
	doc, _ = m.docOf(t, outcome.Warned, with("freeze-test", "--yes", "--no-applications", "--mount", "/root/mnt")...)
	require.Equal(t, "filesystem", doc["consistency"])
	result := doc["result"].(map[string]any)
	require.Equal(t, []any{"/root/mnt"}, result["frozen"])
	require.Greater(t, result["frozenMillis"], 100.0)
	h.Run("echo still writable >/root/mnt/file")
	require.Empty(t, h.Left())
	doc, _ = m.docOf(t, outcome.Done, with("remove")...)
	require.Zero(t, doc["removed"])
}

// Mistakes say what to change.
func TestGuestMistakes(t *testing.T) {
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Accounts: []guesttest.Account{{Name: "bob", Password: "right"}}})
	m, key := keyed(t, h)
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"wrong password":   {[]string{"--known-hosts", h.KnownHosts, "ssh://bob@" + h.Addr}, map[string]string{"HIKAE_GUEST_PASSWORD": "wr0ng-secret"}, []string{"password"}},
		"unknown host key": {append(key[:2:2], "--known-hosts", os.DevNull, "ssh://root@"+h.Addr), nil, []string{"host key"}},
		"nobody there":     {append(key[:4:4], "ssh://root@127.0.0.1:1"), nil, []string{"connect", "port"}},
	} {
		t.Run(name, func(t *testing.T) {
			user := &machine{env: map[string]string{}}
			for k, v := range m.env {
				user.env[k] = v
			}
			for k, v := range c.env {
				user.env[k] = v
			}
			status, text := user.run(t, append([]string{"guest", "probe"}, c.args...)...)
			require.Equal(t, outcome.Failed, status, text)
			t.Log(text)
			for _, w := range c.want {
				require.Contains(t, strings.ToLower(text), w)
			}
			require.NotContains(t, text, "wr0ng-secret")
			require.Equal(t, 1, strings.Count(text, "no way into the guest"), text)
		})
	}
}

// proxyUp runs a proxy until stop is called, and returns its address.
func proxyUp(t *testing.T, m *machine) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	tl := &tool{stdin: strings.NewReader(""), stdout: w, stderr: io.Discard, env: func(k string) string { return m.env[k] }}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tl.run(ctx, []string{"proxy", "serve", "--listen", "127.0.0.1:0"})
		w.Close()
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	line, err := bufio.NewReader(r).ReadBytes('\n')
	require.NoError(t, err)
	var said struct{ Listening string }
	require.NoError(t, json.Unmarshal(line, &said))
	return said.Listening, stop
}

// R139, R140, R151, R169, R170, R189: a proxy does the work in the guest, and the backup server where the proxy is gone.
func TestGuestThroughProxy(t *testing.T) {
	guesttest.Program(t, "mkfs.ext4")
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true, Setup: diskIn})
	m, key := keyed(t, h)
	p := newMachine(t)
	p.env["HIKAE_AGENT_DIR"] = m.env["HIKAE_AGENT_DIR"]
	p.env["HOME"] = t.TempDir() // the proxy has host keys of its own
	require.NoError(t, os.Mkdir(filepath.Join(p.env["HOME"], ".ssh"), 0o700))
	known, err := os.ReadFile(h.KnownHosts)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.env["HOME"], ".ssh", "known_hosts"), known, 0o600))

	token := filepath.Join(t.TempDir(), "token")
	p.must(t, "proxy", "token", "backup-server", "--out", token)
	address, stop := proxyUp(t, p)
	text := m.must(t, "mover", "enrol", address, "--token-file", token)
	require.Contains(t, text, "--via-proxy mover://"+address+"/backup-server")
	via := "mover://" + address + "/backup-server"
	require.Contains(t, m.must(t, "mover", "places"), "proxy")
	require.Contains(t, p.must(t, "mover", "list", "--proxy"), "backup-server")
	require.Contains(t, m.must(t, "proxy", "status", via), "ssh")
	status, text := m.run(t, "points", "--repo", via)
	require.Equal(t, outcome.Misused, status)
	require.Contains(t, text, "--via-proxy")

	url := "ssh://root@" + h.Addr
	with := func(args ...string) []string {
		return append(append([]string{"guest"}, args...), append(key, "--via-proxy", via, url)...)
	}
	doc, _ := m.docOf(t, outcome.Done, with("probe")...)
	require.Equal(t, "proxy "+address, doc["from"])
	doc, _ = m.docOf(t, outcome.Done, with("deploy")...)
	require.Equal(t, "proxy "+address, doc["from"])
	require.Empty(t, h.Left())
	freeze := with("freeze-test", "--yes", "--no-applications", "--mount", "/root/mnt")
	doc, _ = m.docOf(t, outcome.Warned, freeze...)
	require.Contains(t, doc["result"].(map[string]any)["way"], "proxy "+address)
	require.Empty(t, h.Left())

	stop()
	doc, said := m.docOf(t, outcome.Done, with("deploy")...)
	require.NotContains(t, doc["from"], "proxy")
	require.Contains(t, said, "takes its place")
	doc, _ = m.docOf(t, outcome.Warned, freeze...)
	require.Equal(t, "filesystem", doc["consistency"])
	require.Contains(t, fmt.Sprint(doc["result"].(map[string]any)["warnings"]), "in another machine's place")
	require.Empty(t, h.Left())
	p.must(t, "mover", "revoke", "--proxy", "backup-server")

	status, text = m.run(t, "guest", "probe", "--via-proxy", via, "qga:///run/web1.qga")
	require.Equal(t, outcome.Misused, status)
	require.Contains(t, text, "Name an ssh:// or smb:// URL too")
}

// R130, R132, R136, R137: a component that stays is put there over SSH, and reached by its own port from then on.
func TestGuestPersistent(t *testing.T) {
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true}) // an administrator; nothing is frozen
	m, key := keyed(t, h)
	m.env["HIKAE_AGENT_DIR"] = buildAgents(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().String()
	require.NoError(t, l.Close())
	url := "ssh://root@" + h.Addr
	with := func(args ...string) []string { return append(append(append([]string{"guest"}, args...), key...), url) }
	m.must(t, with("install", "--guest-name", "web1", "--listen", port, "--dir", "/root/hikae-service")...)
	require.Contains(t, m.must(t, "guest", "list"), "direct://"+port)

	direct := []string{"--guest-name", "web1", "direct://" + port}
	doc, _ := m.docOf(t, outcome.Done, append([]string{"guest", "probe"}, direct...)...)
	require.Equal(t, true, doc["persistent"].(map[string]any)["component"])
	doc, _ = m.docOf(t, outcome.Done, append([]string{"guest", "deploy"}, direct...)...)
	require.Equal(t, "direct", doc["way"])
	m.must(t, append([]string{"guest", "uninstall"}, direct...)...)
	require.Eventually(t, func() bool { return len(h.Left()) == 0 }, 10*time.Second, 50*time.Millisecond)
	require.Contains(t, m.must(t, "guest", "list"), "no guests")

	m.must(t, with("install", "--guest-name", "web1", "--listen", port, "--dir", "/root/hikae-service")...)
	m.must(t, with("uninstall", "--guest-name", "web1", "--dir", "/root/hikae-service")...)
	require.Empty(t, h.Left())

	folder := filepath.Join(t.TempDir(), "kit")
	m.must(t, "guest", "install", "--guest-name", "web2", "--folder", folder)
	for _, name := range []string{"hikae-agent", "kit.json", "install.sh"} {
		require.FileExists(t, filepath.Join(folder, name))
	}
}
