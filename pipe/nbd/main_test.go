package nbd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// longTier reports whether tests may take minutes.
func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// needs skips a test that cannot run without a program.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// run runs a program and returns what it printed on both streams.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// socketDir is a folder with a name short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve runs a server on a socket until the test ends, and returns the URI of an export there.
func serve(t testing.TB, opts *nbd.ServerOptions, exports ...nbd.Export) (uri func(export string) string) {
	t.Helper()
	path := filepath.Join(socketDir(t), "s")
	l, err := nbd.Listen(t.Context(), "unix:"+path)
	require.NoError(t, err)
	serveOn(t, l, opts, exports...)
	return func(export string) string { return nbd.Address{Network: "unix", Host: path, Export: export}.String() }
}

func serveOn(t testing.TB, l net.Listener, opts *nbd.ServerOptions, exports ...nbd.Export) {
	t.Helper()
	server, err := nbd.NewServer(exports, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

func dial(t testing.TB, uri string, opts *nbd.Options) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(t.Context(), uri, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// sparse is a disk with random content, zeros that are told of, and zeros that are not.
func sparse(seed uint64, size int64) *pipetest.Pattern {
	return pipetest.NewPattern(seed, size, pipetest.RandomLayout(seed, size, pipe.Data, pipe.Zero)...)
}

// fileOf writes an image into a file, with its zeros.
func fileOf(t testing.TB, img pipe.Image) string {
	t.Helper()
	b := make([]byte, img.Size())
	_, err := img.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

var sockets atomic.Int64

// background starts a server program and waits until it listens on the socket that its arguments name by SOCKET.
func background(t testing.TB, name string, args ...string) (socket string) {
	t.Helper()
	needs(t, name)
	socket = filepath.Join(socketDir(t), fmt.Sprint("s", sockets.Add(1)))
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "SOCKET", socket)
	}
	cmd := exec.Command(name, args...)
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		out.Close()
	})
	said := func() string {
		b, _ := os.ReadFile(out.Name())
		return string(b)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil { // the file alone may be there before it listens
			conn.Close()
			return socket
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", name, err, said())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen\n%s", name, said())
		}
	}
}

func unixURI(socket, export string) string {
	return nbd.Address{Network: "unix", Host: socket, Export: export}.String()
}
