package hostfs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv/hostfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// longTier reports whether tests may take minutes.
func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// host is a Samba that has the drive C: of HV1 and the share vms of fs1, whichever it is called.
type host struct {
	*smbtest.Samba
	c, vms string // folders of this machine
	wire   *wire
}

func startHost(t testing.TB, settings ...string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{c: filepath.Join(dir, "c"), vms: filepath.Join(dir, "vms"), wire: &wire{}}
	require.NoError(t, os.Mkdir(h.c, 0o755))
	require.NoError(t, os.Mkdir(h.vms, 0o755))
	global := append(settings, "[C$]", "path = "+h.c, "read only = no", "[vms]", "path = "+h.vms, "read only = no")
	h.Samba = smbtest.StartSamba(t, smbtest.Settings{Global: global})
	return h
}

// options are for tests: waits are short.
func (h *host) options() hostfs.Options {
	return hostfs.Options{
		Machine: "HV1", Timeout: 10 * time.Second, GiveUp: 10 * time.Second, BusyWait: 300 * time.Millisecond,
		Address: func(string) string { return h.HostPort() },
		Login: func(_ context.Context, server string) (hostfs.Login, error) {
			if server != "HV1" && server != "fs1" {
				return hostfs.Login{}, fmt.Errorf("no login for %s", server)
			}
			return hostfs.Login{User: h.User, Password: smbtest.Password}, nil
		},
		Dial: h.wire.dial,
	}
}

func (h *host) open(t testing.TB, change func(*hostfs.Options)) *hostfs.Store {
	t.Helper()
	o := h.options()
	if change != nil {
		change(&o)
	}
	s, err := hostfs.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// put makes a file of the host on this machine.
func (h *host) put(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(h.c, strings.ReplaceAll(name, `\`, "/"))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// wire counts connections and can cut them.
type wire struct {
	mu    sync.Mutex
	conns []net.Conn
	made  int
	down  bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, fmt.Errorf("the network is down")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		w.conns, w.made = append(w.conns, c), w.made+1
	}
	return c, err
}

// cut ends all connections, and lets none be made while down.
func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns, w.down = nil, down
}

func (w *wire) up() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}
