package guest_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/kvm"
	"github.com/stretchr/testify/require"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func overQGA(t *testing.T, a *guesttest.Agent, opts *guest.OverOptions) guest.Channel {
	t.Helper()
	w := guest.OverWay(guest.QGA, func(context.Context) (hikae.GuestChannel, error) { return kvm.OpenGuest(a.Socket), nil }, opts)
	c, err := w.Open(soon(t))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// A hypervisor's agent is a channel like any other: private folders, files in pieces, removal.
func TestOverQGA(t *testing.T) {
	t.Parallel()
	a := guesttest.QGA(t, "", false)
	for _, piece := range []int{0, 100_000} {
		c := overQGA(t, a, &guest.OverOptions{Piece: piece})
		s := c.System()
		require.Equal(t, "linux", s.OS)
		require.True(t, s.Admin)
		require.Empty(t, s.Elevate)
		require.Equal(t, "/tmp", s.Temp[0])
		require.Equal(t, guest.QGA, c.Kind())
		require.Empty(t, a.Left())

		dir := s.Temp[0] + "/hikae-it's $(here)"
		require.NoError(t, c.MakeDir(soon(t), dir))
		require.ErrorIs(t, c.MakeDir(soon(t), dir), fs.ErrExist)
		info, err := os.Stat(a.Path(dir))
		require.NoError(t, err)
		require.Equal(t, fs.ModeDir|0o700, info.Mode())
		data := bytes.Repeat([]byte("0123456789\x00\xff"), 40_000)
		require.NoError(t, c.Upload(soon(t), dir+"/file", data, 0o700))
		got, err := c.Download(soon(t), dir+"/file", int64(len(data)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		info, err = os.Stat(a.Path(dir + "/file"))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), info.Mode())
		entries, err := os.ReadDir(a.Path(dir))
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.NoError(t, c.Remove(soon(t), dir))
		require.NoError(t, c.Remove(soon(t), dir))
		require.Empty(t, a.Left())
		require.NoError(t, c.Close())
	}
}

// R141: the runtime component works where there is no network at all, and leaves nothing there either.
func TestDeployOverQGA(t *testing.T) {
	t.Parallel()
	programs := guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))
	a := guesttest.QGA(t, "", false)
	c := overQGA(t, a, nil)
	start := time.Now()
	d, err := guest.Deploy(soon(t), c, programs, &guest.DeployOptions{Guest: "web1"})
	require.NoError(t, err)
	up := time.Since(start)
	require.Equal(t, "linux", d.Component.Hello().OS)
	start = time.Now()
	require.NoError(t, d.Remove(soon(t)))
	t.Logf("component answering after %v, removed in %v", up, time.Since(start))
	require.Empty(t, a.Left())
}

// A way whose socket is not there, or behind which nobody answers, is closed and says where.
func TestOverNobody(t *testing.T) {
	t.Parallel()
	w := guest.OverWay(guest.QGA, func(context.Context) (hikae.GuestChannel, error) {
		return kvm.OpenGuest(t.TempDir() + "/none"), nil
	}, nil)
	f := w.Probe(soon(t))
	require.False(t, f.Open)
	require.False(t, f.Reached)
	require.NotEmpty(t, f.Problem)

	a := guesttest.QGA(t, "", false)
	a.Pause()
	defer a.Resume()
	w = guest.OverWay(guest.QGA, func(context.Context) (hikae.GuestChannel, error) { return kvm.OpenGuest(a.Socket), nil }, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	f = w.Probe(ctx)
	require.False(t, f.Open)
	require.Less(t, time.Since(start), 3*time.Second)
}
