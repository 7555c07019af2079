package install

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// R133, R137: a guest that has only the installer service is met, gets the component at its first run, and is worked in.
func TestFirstRunInstalls(t *testing.T) {
	c := newController(t)
	h := newHouse(t, c, nil)
	g := c.Guest("web1", h.address, packagesOf(t, "1.2.0"))
	f := g.Probe(t.Context())
	require.Empty(t, f.Problem)
	require.True(t, f.Installer && f.Certificates)
	require.False(t, f.Component)
	k, err := c.Known("web1")
	require.NoError(t, err, "the probe has met it")
	require.Equal(t, h.address, k.Address)

	s, err := guest.NewSession([]guest.Deployer{&guest.Here{Guest: "web1", Persist: g}},
		&guest.SessionOptions{Guest: "web1", Choice: guest.Choice{Windows: true, Persistent: true}, NoApplications: true})
	require.NoError(t, err)
	require.NoError(t, s.Begin(t.Context()))
	_, r := s.Reached()
	require.Equal(t, "persistent component: hikae-agent 1.2.0", r.Component)
	require.Equal(t, "direct, from backup server", r.Way)
	require.NoError(t, s.Close(t.Context()))

	f = g.Probe(t.Context())
	require.True(t, f.Component)
	require.Equal(t, "1.2.0", f.Version)

	// The same again is nothing; an older one is refused by the guest.
	require.NoError(t, g.Install(t.Context()))
	older, err := pack.Make([]byte("never started"), pack.Header{Name: service.Component, Version: "1.1.9", OS: runtime.GOOS, Arch: runtime.GOARCH}, signer)
	require.NoError(t, err)
	refused := c.Guest("web1", "", PackagesIn(fstest.MapFS{"old" + pack.Ending: {Data: older}})).Install(t.Context())
	require.ErrorContains(t, refused, "older")
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		g = c.Guest("web1", "", packagesOf(t, "1.2.0", "1.10.0")) // the newest that is at hand
		require.NoError(t, g.Install(t.Context()))
		require.Equal(t, "1.10.0", g.Probe(t.Context()).Version)
	}

	require.NoError(t, c.Remove(t.Context(), "web1"))
	h.stop()
	require.NoDirExists(t, h.dir)
	_, err = c.Known("web1")
	require.ErrorIs(t, err, ErrNotMet)
}

// Only one kit is good: a newer one voids the older, also where that lies in a guest already.
func TestNewerKitVoidsOlder(t *testing.T) {
	c := newController(t)
	h := newHouse(t, c, nil)
	k, err := c.NewKit(&KitOptions{Signers: signers()})
	require.NoError(t, err)
	_, err = c.Enrol(t.Context(), "web1", h.address)
	require.ErrorIs(t, err, trust.ErrWrongServer)
	f := c.Guest("web1", h.address, nil).Probe(t.Context())
	require.True(t, f.Installer)
	require.False(t, f.Certificates)
	require.Contains(t, f.Hint, "newest kit")

	h.stop()
	h = setUp(t, h.dir, k)
	known, err := c.Enrol(t.Context(), "web1", h.address)
	require.NoError(t, err)
	require.NotEmpty(t, known.Pin)
	_, err = c.Enrol(t.Context(), "web1", h.address)
	require.Error(t, err, "the temporary key is over")
	require.Empty(t, c.Guest("web1", h.address, nil).Probe(t.Context()).Problem, "and was needed once")

	// A kit for one guest is beside that for all.
	own := newHouse(t, c, &KitOptions{Guest: "db 1/ä"})
	_, err = c.Enrol(t.Context(), "web2", own.address)
	require.Error(t, err, "another guest's")
	_, err = c.Enrol(t.Context(), "db 1/ä", own.address)
	require.NoError(t, err)

	require.NoError(t, c.VoidKit(""))
	require.NoError(t, c.VoidKit(""))
	_, err = c.Enrol(t.Context(), "web3", h.address)
	require.ErrorIs(t, err, ErrNotMet)
}

func TestKitLifetime(t *testing.T) {
	c := newController(t)
	k, err := c.NewKit(&KitOptions{Signers: signers()})
	require.NoError(t, err)
	require.InDelta(t, DefaultKitLife.Hours(), time.Until(k.Expires).Hours(), 1)
	_, err = c.NewKit(&KitOptions{Signers: signers(), Lifetime: MaxKitLife + time.Second})
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = c.NewKit(nil)
	require.ErrorIs(t, err, service.ErrKit, "without signers nothing could be installed")

	h := newHouse(t, c, &KitOptions{Lifetime: time.Second})
	time.Sleep(1100 * time.Millisecond)
	_, err = c.Enrol(t.Context(), "web1", h.address)
	require.ErrorIs(t, err, ErrNotMet)
	require.ErrorIs(t, err, trust.ErrExpired)
}

// A probe says what is wrong and what to change.
func TestProbeHints(t *testing.T) {
	c := newController(t)
	h := newHouse(t, c, nil)
	_, err := c.Enrol(t.Context(), "web1", h.address)
	require.NoError(t, err)

	nobody := c.Guest("web9", freePort(t), nil).Probe(t.Context())
	require.False(t, nobody.Installer)
	require.Contains(t, nobody.Hint, "TCP 7421")

	other := newController(t)
	unmet := other.Guest("web1", h.address, nil).Probe(t.Context())
	require.True(t, unmet.Installer)
	require.False(t, unmet.Certificates)
	require.Contains(t, unmet.Hint, "make a kit")

	known, err := c.Known("web1")
	require.NoError(t, err)
	require.NoError(t, other.remember(t.Context(), "web1", known))
	stranger := other.Guest("web1", "", nil).Probe(t.Context())
	require.True(t, stranger.Installer)
	require.False(t, stranger.Certificates)
	require.Contains(t, stranger.Hint, "does not know this machine")

	// The first lets the second in, as a proxy: from now on it may work there.
	require.NoError(t, c.Admit(t.Context(), "web1", other.Public("proxy1", trust.Guest)))
	f := other.Guest("web1", "", nil).Probe(t.Context())
	require.True(t, f.Certificates, f.Problem)
	require.Error(t, other.Remove(t.Context(), "web1"))
	require.DirExists(t, h.dir)
}

func TestPackagesIn(t *testing.T) {
	fsys := fstest.MapFS{"readme.txt": {Data: []byte("x")}}
	for _, v := range []string{"1.9.0", "1.10.0", "1.2.0"} {
		for _, os := range []string{"linux", "windows"} {
			whole, err := pack.Make([]byte(os+v), pack.Header{Name: service.Component, Version: v, OS: os, Arch: "amd64"}, signer)
			require.NoError(t, err)
			fsys[os+v+pack.Ending] = &fstest.MapFile{Data: whole}
		}
	}
	f, err := PackagesIn(fsys).Package("windows", "amd64")
	require.NoError(t, err)
	require.Equal(t, "1.10.0", f.Version)
	require.Equal(t, "windows1.10.0", string(f.Program))
	_, err = PackagesIn(fsys).Package("plan9", "amd64")
	require.ErrorIs(t, err, fs.ErrNotExist)
	fsys["bad"+pack.Ending] = &fstest.MapFile{Data: []byte("hikae-package 1\n")}
	_, err = PackagesIn(fsys).Package("linux", "amd64")
	require.ErrorIs(t, err, pack.ErrForm)
}

// R131, R132, R134: a folder from which a service is set up by hand or by script. Its secret is in a file, never on a
// command line.
func TestScriptSetsUp(t *testing.T) {
	c := newController(t)
	address := freePort(t)
	k, err := c.NewKit(&KitOptions{Signers: signers(), Listen: address})
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "kit")
	build, err := programs(t, "1.2.0").Build("linux", "amd64")
	if err != nil {
		t.Skipf("the component of this system is not one for linux/amd64: %v", err)
	}
	require.NoError(t, WriteFolder(dir, k, build, packagesOf(t, "1.2.0")))
	require.ErrorIs(t, WriteFolder(dir, k, build, nil), fs.ErrExist)
	script, err := os.ReadFile(filepath.Join(dir, linuxScript))
	require.NoError(t, err)
	require.NotContains(t, string(script), k.Token)
	if os.Geteuid() != 0 {
		t.Skip("the script wants to be run as root")
	}

	to := filepath.Join(t.TempDir(), "agent")
	run := func(program string, args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotContains(t, string(out), k.Token)
		return string(out)
	}
	out := run(filepath.Join(dir, linuxScript), "--dir", to, "--unit-dir", "none", "--start", "process")
	t.Cleanup(func() {
		exec.Command(service.Program(to), "installer", "stop", "--dir", to, "--unit-dir", "none").Run()
	})
	require.Contains(t, out, `"installed":["1.2.0"]`)
	left, err := filepath.Glob("/var/tmp/hikae-setup.*")
	require.NoError(t, err)
	require.Empty(t, left, "the script leaves no copy of the secret")

	f := c.Guest("web1", address, nil).Probe(t.Context())
	require.Equal(t, "1.2.0", f.Version, f.Problem)
	run(service.Program(to), "installer", "uninstall", "--dir", to, "--unit-dir", "none")
	require.NoDirExists(t, to)
}

// R135: the folder that a group policy runs the script from, or takes the MSI beside.
func TestWindowsFolder(t *testing.T) {
	c := newController(t)
	k, err := c.NewKit(&KitOptions{Signers: signers()})
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "kit")
	require.NoError(t, WriteFolder(dir, k, &guest.Build{OS: "windows", Arch: "amd64", Content: []byte("MZ")}, nil))
	text, err := os.ReadFile(filepath.Join(dir, windowsScript))
	require.NoError(t, err)
	require.Contains(t, string(text), "Not yet verified on Windows")
	require.NotContains(t, string(text), k.Token)
	require.FileExists(t, filepath.Join(dir, "hikae-agent.exe"))
}

func TestGuestNames(t *testing.T) {
	c := newController(t)
	for _, wrong := range []string{"", "a\nb", strings.Repeat("x", 256)} {
		_, err := c.Enrol(t.Context(), wrong, "127.0.0.1:1")
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Equal(t, "10.0.0.1:7421", WithPort("10.0.0.1"))
	require.Equal(t, "[fe80::1]:7421", WithPort("fe80::1"))
	require.Equal(t, "[fe80::1]:99", WithPort("[fe80::1]:99"))
}
