package vmwaretest

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestControl: another process may do as the guests do, if it has the token.
func TestControl(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "c"))
	require.NoError(t, err)
	token := NewToken()
	require.Error(t, r.s.ServeControl(l, "short"))
	require.NoError(t, r.s.ServeControl(l, token))
	address := "unix:" + l.Addr().String()
	_, err = DialControl(r.ctx, address, "another-token-altogether")
	require.Error(t, err)
	_, err = DialControl(r.ctx, "nonsense", token)
	require.Error(t, err)
	c, err := DialControl(r.ctx, address, token)
	require.NoError(t, err)
	defer c.Close()

	names, err := c.VMs(r.ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"web0", "web1"}, names)
	want := pattern(1<<20, 3)
	require.NoError(t, c.Write(r.ctx, "web0", 0, want, 0))
	got := make([]byte, 1<<20)
	require.NoError(t, c.Read(r.ctx, "web0", 0, got, 0))
	require.True(t, bytes.Equal(want, got))
	a, err := c.Sum(r.ctx, "web0", 0)
	require.NoError(t, err)
	b, err := c.Sum(r.ctx, "web1", 0)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	require.NoError(t, c.PowerOff(r.ctx, "web0"))
	require.False(t, r.s.VM("web0").PoweredOn())
	require.Error(t, c.PowerOff(r.ctx, "web0"))
	require.NoError(t, c.Extend(r.ctx, "web0", 0, 2<<20))
	size, err := c.Size(r.ctx, "web0", 0)
	require.NoError(t, err)
	require.Equal(t, int64(2<<20), size)
	require.Error(t, c.Write(r.ctx, "web0", 0, want, 2<<20), "past the end")
	require.Error(t, c.Write(r.ctx, "web9", 0, want, 0))
	_, err = c.Size(r.ctx, "web0", -1)
	require.Error(t, err)
	require.NoError(t, c.Fail(r.ctx, Fault{Method: "GET /folder/", Status: 503}))
	left, err := c.Leftovers(r.ctx)
	require.NoError(t, err)
	require.NotEmpty(t, left, "the session of this test")
	ended, cancel := context.WithCancel(r.ctx)
	cancel()
	_, err = c.VMs(ended)
	require.ErrorIs(t, err, context.Canceled)
}
