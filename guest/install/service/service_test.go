package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// talk begins a session.
func (h *house) talk(t testing.TB, id *trust.Identity, pin trust.Pin, protocol string) (*guest.Component, error) {
	t.Helper()
	conn, err := h.dial(t, id, pin, protocol)
	if err != nil {
		return nil, err
	}
	c, err := guest.Dial(context.Background(), conn, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, nil
}

func (h *house) enrol(t testing.TB) trust.Pin {
	t.Helper()
	c, err := h.talk(t, h.id, h.temp, ALPNEnrol)
	require.NoError(t, err)
	a, err := c.Enrol(t.Context(), wire.EnrolArgs{Key: h.id.PublicKey()})
	require.NoError(t, err)
	pin, err := trust.ParsePin(a.Pin)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return pin
}

func args(f *pack.File) wire.InstallArgs {
	return wire.InstallArgs{Name: f.Name, Version: f.Version, OS: f.OS, Arch: f.Arch, Size: f.Size, SHA256: f.SHA256[:],
		Downgrade: f.Downgrade, Signature: f.Signature}
}

// R127, R128, R130, R133: one port; the temporary key is shown once; the component is installed and used over that port.
func TestOnePortForEverything(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	require.Equal(t, h.service.Pin(), pin)
	require.Equal(t, pin, h.enrol(t), "an answer that was lost is asked for again")

	c, err := h.talk(t, h.id, pin, ALPNInstaller)
	require.NoError(t, err)
	require.Equal(t, "hikae-installer 0.9.0", c.Hello().Product)
	require.True(t, c.Hello().Installer)
	require.True(t, c.Hello().Persist)
	require.False(t, c.Has(wire.Freeze), "the installer service is a thing of its own")

	// The first session by the service's own key has ended the temporary one.
	_, err = h.talk(t, h.id, h.temp, ALPNEnrol)
	require.Error(t, err)
	require.NoFileExists(t, filepath.Join(h.dir, trustDir, temporaryFile))

	_, err = h.talk(t, h.id, pin, ALPNAgent)
	require.Error(t, err, "nothing is installed")
	f := release(t, "1.2.0")
	a, err := c.Install(t.Context(), args(f), reader(f.Program))
	require.NoError(t, err)
	require.Equal(t, wire.InstallAnswer{Installed: "1.2.0"}, a)

	g, err := h.talk(t, h.id, pin, ALPNAgent)
	require.NoError(t, err)
	require.Equal(t, "hikae-agent 1.2.0", g.Hello().Product)
	_, err = g.Inspect(t.Context(), wire.InspectArgs{})
	require.NoError(t, err)

	// An upgrade while a component runs: it goes on to its end, and the next one is new.
	f = release(t, "1.3.0")
	a, err = c.Install(t.Context(), args(f), reader(f.Program))
	require.NoError(t, err)
	require.Equal(t, wire.InstallAnswer{Installed: "1.3.0", Replaced: "1.2.0"}, a)
	_, err = g.Inspect(t.Context(), wire.InspectArgs{})
	require.NoError(t, err)
	require.NoError(t, g.Close())
	g, err = h.talk(t, h.id, pin, ALPNAgent)
	require.NoError(t, err)
	require.Equal(t, "hikae-agent 1.3.0", g.Hello().Product)
	require.NoError(t, g.Close())

	bad := release(t, "1.4.0")
	bad.Signature[3] ^= 1
	_, err = c.Install(t.Context(), args(bad), reader(bad.Program))
	var failure *wire.Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, wire.CodeSignature, failure.Code)
	require.NoError(t, c.Close())

	require.NoError(t, h.stop())
	list, err := os.ReadDir(filepath.Join(h.dir, sessionsDir))
	require.NoError(t, err)
	require.Len(t, list, 0, "sessions leave nothing")
}

// A proxy may install and use components, and nothing else; others get nothing at all.
func TestWhoIsLetIn(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	stranger, err := trust.NewIdentity()
	require.NoError(t, err)
	for _, protocol := range []string{ALPNInstaller, ALPNAgent} {
		_, err = h.talk(t, stranger, pin, protocol)
		require.Error(t, err)
	}
	_, err = h.talk(t, h.id, stranger.Pin(), ALPNInstaller)
	require.ErrorIs(t, err, trust.ErrWrongServer)
	_, err = h.talk(t, h.id, pin, trust.ALPN)
	require.Error(t, err)

	p, err := h.talk(t, h.proxy, pin, ALPNInstaller)
	require.NoError(t, err)
	f := release(t, "1.0.0")
	_, err = p.Install(t.Context(), args(f), reader(f.Program))
	require.NoError(t, err)
	_, err = p.Remove(t.Context())
	require.ErrorContains(t, err, string(wire.CodeRights))
	_, err = p.Enrol(t.Context(), wire.EnrolArgs{Key: stranger.PublicKey(), Name: "friend", Role: "full"})
	require.ErrorContains(t, err, string(wire.CodeRights))

	c, err := h.talk(t, h.id, pin, ALPNInstaller)
	require.NoError(t, err)
	for _, wrong := range []wire.EnrolArgs{{}, {Key: []byte("short")}, {Key: stranger.PublicKey(), Name: "../x", Role: "full"},
		{Key: stranger.PublicKey(), Name: "friend", Role: "append"}, {Key: stranger.PublicKey(), Name: "backup-server", Role: "guest"}} {
		_, err = c.Enrol(t.Context(), wrong)
		require.Error(t, err)
	}
	_, err = c.Enrol(t.Context(), wire.EnrolArgs{Key: stranger.PublicKey(), Name: "proxy2", Role: "guest"})
	require.NoError(t, err)
	_, err = h.talk(t, stranger, pin, ALPNAgent)
	require.NoError(t, err)

	// The controller changes over to another key; from its first use on the old one is good for nothing.
	next, err := trust.NewIdentity()
	require.NoError(t, err)
	_, err = c.Enrol(t.Context(), wire.EnrolArgs{Key: next.PublicKey()})
	require.NoError(t, err)
	_, err = h.talk(t, next, pin, ALPNInstaller)
	require.NoError(t, err)
	_, err = h.talk(t, h.id, pin, ALPNInstaller)
	require.Error(t, err)
}

// The temporary key ends with its time, and with the next kit.
func TestTemporaryKeyEnds(t *testing.T) {
	h := newHouse(t, time.Hour)
	h.service.people.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	_, err := h.talk(t, h.id, h.temp, ALPNEnrol)
	require.Error(t, err)
	h.service.people.now = time.Now
	_, err = h.talk(t, h.id, h.temp, ALPNEnrol)
	require.NoError(t, err)

	id, c := controller(t, "backup-server", trust.Full)
	k, temp := newKit(t, id, time.Hour, c)
	_, err = Setup(t.Context(), h.dir, k, &SetupOptions{Program: stand(t)})
	require.NoError(t, err)
	_, err = h.talk(t, h.id, h.temp, ALPNEnrol)
	require.Error(t, err, "the older kit is void, and its controller has another key now")
	_, err = h.talk(t, id, temp, ALPNEnrol)
	require.NoError(t, err)
}

// Two controllers, two kits: that one of them has been there does not end the other's temporary key.
func TestTwoControllers(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	id, c := controller(t, "second-server", trust.Full)
	k, temp := newKit(t, id, time.Hour, c)
	_, err := Setup(t.Context(), h.dir, k, &SetupOptions{Program: stand(t)})
	require.NoError(t, err)
	_, err = h.talk(t, h.id, pin, ALPNInstaller)
	require.NoError(t, err)
	_, err = h.talk(t, id, temp, ALPNEnrol)
	require.NoError(t, err)
	_, err = h.talk(t, id, pin, ALPNInstaller)
	require.NoError(t, err)
	_, err = h.talk(t, id, temp, ALPNEnrol)
	require.Error(t, err)
}

// RELIABILITY 1.5: a service that is killed takes its components along: they read their end, let go and leave nothing.
func TestServiceKilled(t *testing.T) {
	dir, beside := filepath.Join(t.TempDir(), "agent"), t.TempDir()
	id, c := controller(t, "backup-server", trust.Full)
	k, temp := newKit(t, id, time.Hour, c)
	k.Listen = "127.0.0.1:0"
	f := release(t, "1.0.0")
	require.NoError(t, os.WriteFile(filepath.Join(beside, "a"+pack.Ending), append(f.Encode(), f.Program...), 0o600))
	_, err := Setup(t.Context(), dir, k, &SetupOptions{Beside: beside})
	require.NoError(t, err)
	h := &house{dir: dir, id: id, temp: temp}
	h.address, err = startDetached(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop(context.Background(), dir, "")) })
	pin := h.enrol(t)
	g, err := h.talk(t, id, pin, ALPNAgent)
	require.NoError(t, err)

	text, err := os.ReadFile(pidPath(dir))
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(text))
	require.NoError(t, err)
	p, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	<-g.Done()
	require.Eventually(t, func() bool {
		list, err := os.ReadDir(filepath.Join(dir, sessionsDir))
		return err == nil && !slices.ContainsFunc(list, os.DirEntry.IsDir)
	}, 20*time.Second, 10*time.Millisecond)

	h.address, err = startDetached(t.Context(), dir)
	require.NoError(t, err)
	_, err = h.talk(t, id, pin, ALPNAgent)
	require.NoError(t, err)
}

// Whoever is not known gets an alert and not a byte else, whatever it sends; and it keeps nobody else out.
func TestUnknownBytesAreNotAnswered(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	junk := make([]byte, 64<<10)
	rand.Read(junk)
	var frame bytes.Buffer
	require.NoError(t, wire.Write(&frame, wire.Frame{Kind: wire.KindRequest, Call: 1, Payload: []byte(`{"verb":"hello","args":{"version":1,"session":"","leaseMillis":0}}`)}))
	for _, text := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n"), []byte("SSH-2.0-x\r\n"), junk, frame.Bytes(), bytes.Repeat([]byte{0x16, 3, 1, 0xff, 0xff}, 100)} {
		conn, err := net.Dial("tcp", h.address)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		_, _ = conn.Write(text)
		if len(text) > 0 {
			conn.(*net.TCPConn).CloseWrite()
		} else {
			conn.Close()
		}
		got, _ := io.ReadAll(conn)
		require.LessOrEqual(t, len(got), 16, "%q", got) // one record with an alert
		conn.Close()
	}
	idle := make([]net.Conn, 20) // that never say anything
	for i := range idle {
		var err error
		idle[i], err = net.Dial("tcp", h.address)
		require.NoError(t, err)
		defer idle[i].Close()
	}
	_, err := h.talk(t, h.id, pin, ALPNInstaller)
	require.NoError(t, err)
}

// Sessions are bounded, and places become free again.
func TestSessionsAreBounded(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	require.NoError(t, h.stop())
	h.open(t, &Options{Version: "0.9.0", Sessions: 2})
	var open []*guest.Component
	for range 2 {
		c, err := h.talk(t, h.id, pin, ALPNInstaller)
		require.NoError(t, err)
		open = append(open, c)
	}
	_, err := h.talk(t, h.id, pin, ALPNInstaller)
	require.Error(t, err)
	require.NoError(t, open[0].Close())
	require.Eventually(t, func() bool {
		_, err := h.talk(t, h.id, pin, ALPNInstaller)
		return err == nil
	}, 5*time.Second, 20*time.Millisecond)
}

// R131, R132: by hand: the kit, the program and packages in one folder; and everything of it goes again.
func TestSetupAndUninstallByCommand(t *testing.T) {
	beside, dir, units := t.TempDir(), filepath.Join(t.TempDir(), "agent"), t.TempDir()
	id, c := controller(t, "backup-server", trust.Full)
	k, temp := newKit(t, id, time.Hour, c)
	k.Listen = "127.0.0.1:0"
	text, err := k.Encode()
	require.NoError(t, err)
	kit := filepath.Join(beside, "kit.json")
	require.NoError(t, os.WriteFile(kit, text, 0o600))
	for _, v := range []string{"1.0.0", "1.1.0"} {
		f := release(t, v)
		require.NoError(t, os.WriteFile(filepath.Join(beside, v+pack.Ending), append(f.Encode(), f.Program...), 0o600))
	}
	f := release(t, "2.0.0", func(h *pack.Header) { h.OS = "windows" })
	require.NoError(t, os.WriteFile(filepath.Join(beside, "w"+pack.Ending), append(f.Encode(), f.Program...), 0o600))

	self, err := os.Executable()
	require.NoError(t, err)
	run := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, self, append([]string{"installer"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotContains(t, strings.Join(cmd.Args, " "), k.Token)
		return string(out)
	}
	out := run("setup", "--kit", kit, "--dir", dir, "--start", "process", "--unit-dir", "none")
	t.Cleanup(func() { stop(context.Background(), dir, "") })
	require.Contains(t, out, `"installed":["1.0.0","1.1.0"]`)
	require.NotContains(t, out, k.Token)
	_, rest, _ := strings.Cut(out, `"listening":"`)
	address, _, _ := strings.Cut(rest, `"`)

	h := &house{dir: dir, address: address, id: id, temp: temp}
	pin := h.enrol(t)
	g, err := h.talk(t, id, pin, ALPNAgent)
	require.NoError(t, err)
	require.Equal(t, "hikae-agent 1.1.0", g.Hello().Product)
	require.NoError(t, g.Close())

	// Again, as an upgrade: the service has the same key, and a new temporary one.
	out = run("setup", "--kit", kit, "--dir", dir, "--unit-dir", units, "--start", "no")
	require.FileExists(t, filepath.Join(units, UnitName))
	require.Contains(t, out, `"installed":["1.1.0"]`)
	require.Equal(t, pin, h.enrol(t))

	removed := run("uninstall", "--dir", dir, "--unit-dir", units)
	require.Contains(t, removed, "trust")
	require.NoDirExists(t, dir)
	require.NoFileExists(t, filepath.Join(units, UnitName))
	_, err = net.DialTimeout("tcp", address, time.Second)
	require.Error(t, err, "it still listens")
	require.Contains(t, run("uninstall", "--dir", dir, "--unit-dir", units), `"removed":null`, "again, with nothing there")
}

// R126: uninstalled over its own port, the service takes itself away.
func TestRemoveOverThePort(t *testing.T) {
	h := newHouse(t, time.Hour)
	pin := h.enrol(t)
	c, err := h.talk(t, h.id, pin, ALPNInstaller)
	require.NoError(t, err)
	f := release(t, "1.0.0")
	_, err = c.Install(t.Context(), args(f), reader(f.Program))
	require.NoError(t, err)
	g, err := h.talk(t, h.id, pin, ALPNAgent) // at work meanwhile
	require.NoError(t, err)
	a, err := c.Remove(t.Context())
	require.NoError(t, err)
	require.Contains(t, a.Removed, h.dir)
	require.NoDirExists(t, h.dir, "nothing that is said to be removed is there")
	require.NoError(t, h.stop())
	require.NoDirExists(t, h.dir)
	<-g.Done()
	_, err = net.DialTimeout("tcp", h.address, time.Second)
	require.Error(t, err)
}

// Uninstall removes what is ours, in a folder of ours, and nothing else.
func TestUninstallRemovesNothingElse(t *testing.T) {
	foreign := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(foreign, "trust"), 0o700))
	removed, err := Uninstall(foreign, "")
	require.NoError(t, err)
	require.Empty(t, removed)
	require.DirExists(t, filepath.Join(foreign, "trust"))

	dir := filepath.Join(t.TempDir(), "agent")
	id, c := controller(t, "backup-server", trust.Full)
	k, _ := newKit(t, id, time.Hour, c)
	_, err = Setup(t.Context(), dir, k, &SetupOptions{Program: stand(t)})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "somebody's"), nil, 0o600))
	_, err = Uninstall(dir, "")
	require.NoError(t, err)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "somebody's", list[0].Name())
}

func TestUnitText(t *testing.T) {
	text := Unit("/var/lib/hikae agent/installer/hikae-agent", `/var/lib/hikae %n"x`)
	require.Contains(t, text, `ExecStart="/var/lib/hikae agent/installer/hikae-agent" installer run --dir "/var/lib/hikae %%n\"x" `)
	require.NotContains(t, text, "token")
	require.ErrorContains(t, writeUnit(t.TempDir(), "/x", "/a\nExecStartPre=/bin/evil"), "line break")
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: the unit's words were not looked at")
	}
	path := filepath.Join(t.TempDir(), UnitName)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(Unit(self, "/var/lib/x")), 0o644))
	out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestCommandLine(t *testing.T) {
	for _, wrong := range [][]string{nil, {"walk"}, {"run", "x"}, {"setup", "--tea"}} {
		require.ErrorIs(t, Run(t.Context(), wrong, "0.9.0", io.Discard), ErrUsage, fmt.Sprint(wrong))
	}
	require.Error(t, Run(t.Context(), []string{"setup", "--kit", filepath.Join(t.TempDir(), "none")}, "0.9.0", io.Discard))
	require.Error(t, Run(t.Context(), []string{"run", "--dir", t.TempDir()}, "0.9.0", io.Discard))
}
