package service

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// The test's own program is the component, an installation that is killed, and the service in a process of its own.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the children: the race detector's pause at the end of each
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "component":
			os.Exit(component(os.Args[2], os.Args[3:]))
		case "kill":
			os.Exit(installAndDie(os.Args[2:]))
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "installer" {
		os.Exit(exitCode(Run(context.Background(), os.Args[2:], "0.9.0", os.Stdout)))
	}
	goleak.VerifyTestMain(m)
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// component is a component of a version: a real agent on stdin and stdout.
func component(version string, args []string) int {
	if version == "mute" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	if len(args) != 3 || args[0] != "serve" || args[1] != "--dir" {
		return 2
	}
	p, err := agent.OpenPlace(args[2])
	if err != nil {
		return exitCode(err)
	}
	err = agent.New(&agent.Options{Product: Component + " " + version, Remove: p.Removed}).Serve(context.Background(), stdio{})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return exitCode(errors.Join(err, p.Remove()))
}

// stdio is stdin and stdout as a stream.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

var signer = ed25519.NewKeyFromSeed([]byte("a seed that only tests have.....")[:32])

func signerText() string { return pack.KeyText(signer.Public().(ed25519.PublicKey)) }

// release is a signed package of that version. Its program is a script that runs the test's own.
func release(t testing.TB, version string, change ...func(h *pack.Header)) *pack.File {
	t.Helper()
	return releaseOf(t, version, version, change...)
}

func releaseOf(t testing.TB, version, says string, change ...func(h *pack.Header)) *pack.File {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the component of these tests is a script for sh")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	h := pack.Header{Name: Component, Version: version, OS: runtime.GOOS, Arch: runtime.GOARCH}
	for _, c := range change {
		c(&h)
	}
	program := fmt.Appendf(nil, "#!/bin/sh\nGORACE=atexit_sleep_ms=0 exec %s component %s \"$@\"\n", self, says)
	whole, err := pack.Make(program, h, signer)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "p"+pack.Ending)
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	f, err := pack.ReadFile(path)
	require.NoError(t, err)
	return f
}

// controller is a machine that a kit lets in.
func controller(t testing.TB, name string, role trust.Role) (*trust.Identity, Controller) {
	t.Helper()
	id, err := trust.NewIdentity()
	require.NoError(t, err)
	return id, Controller{Name: name, Role: role, Key: base64.StdEncoding.EncodeToString(id.PublicKey())}
}

// newKit is a kit with its temporary key's pin.
func newKit(t testing.TB, id *trust.Identity, life time.Duration, controllers ...Controller) (*Kit, trust.Pin) {
	t.Helper()
	book, err := trust.OpenBook(t.TempDir())
	require.NoError(t, err)
	token, err := book.AddToken(id.Pin(), "kit", trust.Guest, time.Hour)
	require.NoError(t, err)
	temp, err := token.Identity()
	require.NoError(t, err)
	k := &Kit{Token: token.String(), Expires: time.Now().Add(life), Controllers: controllers, Signers: []string{signerText()}}
	require.NoError(t, k.Check())
	return k, temp.Pin()
}

// house is a guest with a service that runs.
type house struct {
	dir     string
	address string
	id      *trust.Identity // of the controller
	proxy   *trust.Identity
	temp    trust.Pin
	service *Service
	stop    func() error
}

func newHouse(t *testing.T, life time.Duration) *house {
	t.Helper()
	h := &house{dir: filepath.Join(t.TempDir(), "agent")}
	var first, second Controller
	h.id, first = controller(t, "backup-server", trust.Full)
	h.proxy, second = controller(t, "proxy1", trust.Guest)
	k, temp := newKit(t, h.id, life, first, second)
	h.temp = temp
	_, err := Setup(t.Context(), h.dir, k, &SetupOptions{Program: stand(t)})
	require.NoError(t, err)
	h.open(t, nil)
	return h
}

// stand stands in for the service's own program where it is this process that serves.
func stand(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
	return path
}

// open starts the service, as at the start of the machine.
func (h *house) open(t *testing.T, opts *Options) {
	t.Helper()
	if opts == nil {
		opts = &Options{Version: "0.9.0"}
	}
	s, err := Open(h.dir, opts)
	require.NoError(t, err)
	l, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	h.service, h.address = s, l.Addr().String()
	stopped := false
	h.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { require.NoError(t, h.stop()) })
}

// dial is a connection to the service.
func (h *house) dial(t testing.TB, id *trust.Identity, pin trust.Pin, protocol string) (net.Conn, error) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", h.address, 5*time.Second)
	require.NoError(t, err)
	require.NoError(t, raw.SetDeadline(time.Now().Add(30*time.Second)))
	conn, err := trust.Connect(context.Background(), raw, trust.ClientTLS(id, pin, protocol))
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// installAndDie installs a package and kills itself at one of the steps: dir, package, number of the step.
func installAndDie(args []string) int {
	f, err := pack.ReadFile(args[1])
	if err != nil {
		return exitCode(err)
	}
	at, err := strconv.Atoi(args[2])
	if err != nil {
		return exitCode(err)
	}
	s, err := openStore(args[0], []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}, func(ctx context.Context, path, version string) error {
		return tryOut(ctx, filepath.Join(args[0], sessionsDir), path, version)
	})
	if err != nil {
		return exitCode(err)
	}
	n := 0
	s.at = func(string) {
		if n++; n == at {
			dieNow()
			select {}
		}
	}
	_, err = s.Install(context.Background(), &f.Package, reader(f.Program))
	return exitCode(err)
}
