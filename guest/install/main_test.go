package install

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		for _, b := range built.programs {
			os.RemoveAll(filepath.Dir(b))
		}
		os.Exit(status)
	}))
}

var signer = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func signers() []ed25519.PublicKey { return []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)} }

var built struct {
	sync.Mutex
	programs map[string]string // by version
}

// program is the real component of that version.
func program(t testing.TB, version string) []byte {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("these tests run the component of Linux")
	}
	built.Lock()
	defer built.Unlock()
	path := built.programs[version]
	if path == "" {
		dir, err := os.MkdirTemp("", "component")
		require.NoError(t, err)
		path = filepath.Join(dir, "hikae-agent")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path,
			"github.com/hikae/hikae/guest/agent/hikae-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if built.programs == nil {
			built.programs = map[string]string{}
		}
		built.programs[version] = path
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// packages is a folder with packages of these versions.
func packagesOf(t testing.TB, versions ...string) Packages {
	t.Helper()
	dir := t.TempDir()
	for _, v := range versions {
		whole, err := pack.Make(program(t, v), pack.Header{Name: service.Component, Version: v, OS: runtime.GOOS, Arch: runtime.GOARCH}, signer)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, v+pack.Ending), whole, 0o600))
	}
	return PackagesIn(os.DirFS(dir))
}

// programs have the real component as the program that sets itself up.
func programs(t testing.TB, version string) guest.Programs {
	t.Helper()
	dir := t.TempDir()
	place := filepath.Join(dir, runtime.GOOS+"-"+runtime.GOARCH)
	require.NoError(t, os.Mkdir(place, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(place, "hikae-agent"), program(t, version), 0o700))
	return guest.ProgramsIn(os.DirFS(dir))
}

func newController(t testing.TB) *Controller {
	t.Helper()
	c, err := OpenController(filepath.Join(t.TempDir(), "controller"))
	require.NoError(t, err)
	return c
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// house is a guest whose service runs in this process.
type house struct {
	dir     string
	address string
	stop    func()
}

// setUp sets a service up with a kit, and starts it.
func setUp(t testing.TB, dir string, k *service.Kit) *house {
	t.Helper()
	stand := filepath.Join(t.TempDir(), "program") // it is this process that serves
	require.NoError(t, os.WriteFile(stand, []byte("#!/bin/sh\n"), 0o700))
	_, err := service.Setup(t.Context(), dir, k, &service.SetupOptions{Program: stand})
	require.NoError(t, err)
	s, err := service.Open(dir, &service.Options{Version: "0.9.0"})
	require.NoError(t, err)
	l, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var once sync.Once
	h := &house{dir: dir, address: l.Addr().String(), stop: func() { once.Do(func() { cancel(); require.NoError(t, <-done) }) }}
	t.Cleanup(h.stop)
	return h
}

func newHouse(t testing.TB, c *Controller, opts *KitOptions) *house {
	t.Helper()
	o := KitOptions{Signers: signers()}
	if opts != nil {
		o = *opts
		o.Signers = signers()
	}
	k, err := c.NewKit(&o)
	require.NoError(t, err)
	return setUp(t, filepath.Join(t.TempDir(), "agent"), k)
}
