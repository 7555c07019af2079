package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// vsphereStartLab is a fake vSphere, and the tool in this process.
type vsphereStartLab struct {
	*testing.T
	server *vmwaretest.Server
	home   string
	mapper string
}

// heard takes what a command prints.
type heard struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

func newVSphereStartLab(t *testing.T) *vsphereStartLab {
	server, err := vmwaretest.Start(&vmwaretest.Options{VMs: 1, Datastores: 2, DiskBytes: 2 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // a port that is free now
	require.NoError(t, err)
	l := &vsphereStartLab{T: t, server: server, home: t.TempDir(), mapper: conn.LocalAddr().String()}
	require.NoError(t, conn.Close())
	server.AskPortMapper(l.mapper)
	return l
}

func (l *vsphereStartLab) address(parameters string) string {
	return "vsphere://" + l.server.User() + "@" + l.server.URL().Host + "/?thumbprint=" + url.QueryEscape(l.server.Thumbprint()) + parameters
}

func (l *vsphereStartLab) run(ctx context.Context, out *heard, args ...string) outcome.Status {
	env := map[string]string{"HIKAE_STATE_DIR": filepath.Join(l.home, "state"), "HIKAE_CACHE_DIR": filepath.Join(l.home, "cache"), sourcePassword: l.server.Password()}
	errs := &heard{}
	t := &tool{stdin: strings.NewReader(""), stdout: out, stderr: errs, env: func(name string) string { return env[name] }}
	status := t.run(ctx, args)
	l.Logf("hikae %s: %d\n%s%s", strings.Join(args, " "), status, out, errs)
	return status
}

func (l *vsphereStartLab) start(ctx context.Context, out *heard, more ...string) outcome.Status {
	return l.run(ctx, out, append([]string{"vsphere", "start", "--repo", filepath.Join(l.home, "r"), "web0@latest",
		"--to", l.address("&name=now"), "--folder", filepath.Join(l.home, "f"), "--address", "127.0.0.1",
		"--listen", "127.0.0.1:0", "--port-mapper", l.mapper, "--async"}, more...)...)
}

func (l *vsphereStartLab) backup(parameters string) {
	l.Helper()
	require.Equal(l, outcome.Done, l.run(l.Context(), &heard{}, "backup", "--repo", filepath.Join(l.home, "r"), l.address("&vm=web0&quiesce=off"+parameters)))
}

// A VM is started from a point by the command, goes on over a command that is interrupted and a newer point, and is moved; and
// another one is stopped. Nothing is left of either.
func TestVSphereStart(t *testing.T) {
	l := newVSphereStartLab(t)
	require.NoError(t, l.server.VM("web0").Disk(0).Write(1000, []byte("in the point")))
	require.Equal(t, outcome.Done, l.run(t.Context(), &heard{}, "init", "--no-encryption", filepath.Join(l.home, "r")))
	l.backup("")

	ctx, cancel := context.WithCancelCause(t.Context())
	out, ended := &heard{}, make(chan outcome.Status, 1)
	go func() { ended <- l.start(ctx, out) }()
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "}\n") }, 20*time.Second, 10*time.Millisecond)
	var doc vsphereStartedDoc
	require.NoError(t, json.Unmarshal([]byte(out.String()), &doc))
	vm := l.server.VM("now")
	require.Equal(t, vm.Ref().Value, doc.VM)
	require.True(t, vm.PoweredOn())
	got, err := vm.Disk(0).Read(1000, 12)
	require.NoError(t, err)
	require.Equal(t, "in the point", string(got))
	require.NoError(t, vm.Disk(0).Write(1003, []byte("what")))
	cancel(errInterrupted)
	require.Equal(t, outcome.Interrupted, <-ended)
	require.True(t, vm.PoweredOn())

	require.NoError(t, l.server.VM("web0").Disk(0).Write(1000, []byte("a newer one ")))
	l.backup("&tracking=keep")
	require.Equal(t, outcome.Done, l.start(t.Context(), &heard{}, "--move-to", "LocalDS_1"))
	require.Contains(t, vm.Disk(0).File(), "[LocalDS_1]")
	got, err = vm.Disk(0).Read(1000, 12)
	require.NoError(t, err)
	require.Equal(t, "in whatpoint", string(got))
	require.Empty(t, l.server.Leftovers())

	require.NoError(t, vm.PowerOff())
	require.NotEqual(t, outcome.Done, l.start(t.Context(), &heard{}, "--move-to", "LocalDS_0", "--no-network"), "its name is taken")
	require.Empty(t, l.server.Leftovers())
}

// --stop ends what the command started, and is no error where there is nothing.
func TestVSphereStartStop(t *testing.T) {
	l := newVSphereStartLab(t)
	require.Equal(t, outcome.Done, l.run(t.Context(), &heard{}, "init", "--no-encryption", filepath.Join(l.home, "r")))
	l.backup("")
	ctx, cancel := context.WithCancelCause(t.Context())
	out, ended := &heard{}, make(chan outcome.Status, 1)
	go func() { ended <- l.start(ctx, out, "--no-network") }()
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "}\n") }, 20*time.Second, 10*time.Millisecond)
	cancel(errInterrupted)
	require.Equal(t, outcome.Interrupted, <-ended)
	require.NotEmpty(t, l.server.Leftovers())
	require.Equal(t, outcome.Done, l.start(t.Context(), &heard{}, "--stop"))
	require.Empty(t, l.server.Leftovers())
	require.Nil(t, l.server.VM("now"))
	require.Equal(t, outcome.Done, l.start(t.Context(), &heard{}, "--stop"))
	require.Equal(t, outcome.Misused, l.start(t.Context(), &heard{}, "--client", "esx1"))
}
