package service

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install/pack"
)

// One package that was once allowed to go back undoes the protection for ever.
func TestDowngradeIsGoodOnce(t *testing.T) {
	s := newStore(t, t.TempDir())
	back := release(t, "1.0.0", func(h *pack.Header) { h.Downgrade = true })
	for _, v := range []*pack.File{release(t, "2.0.0"), back, release(t, "3.0.0")} {
		_, err := s.put(t, v)
		require.NoError(t, err)
	}
	_, err := s.put(t, back) // months later, by whoever kept it
	require.ErrorIs(t, err, pack.ErrRollback)
}

// Strangers who say nothing keep those out who are known.
func TestStrangersShutNobodyOut(t *testing.T) {
	h := newHouse(t, time.Hour)
	for range 40 {
		c, err := net.Dial("tcp", h.address)
		require.NoError(t, err)
		defer c.Close()
	}
	time.Sleep(200 * time.Millisecond)
	c, err := h.dial(t, h.id, h.service.Pin(), ALPNInstaller)
	if err == nil {
		defer c.Close()
	}
	require.NoError(t, err)
}

// A folder that somebody else owns becomes root's service.
func TestSetupInForeignFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	require.NoError(t, os.Mkdir(dir, 0o755))
	if os.Geteuid() != 0 {
		t.Skip("needs root, to have another user's folder")
	}
	require.NoError(t, os.Chown(dir, 65534, 65534))
	id, c := controller(t, "backup-server", "full")
	k, _ := newKit(t, id, time.Hour, c)
	_, err := Setup(t.Context(), dir, k, &SetupOptions{Program: stand(t)})
	fi, _ := os.Stat(dir)
	uid := -1
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		uid = int(st.Uid)
	}
	require.Error(t, err, "owner of the folder of a service that runs as root: %d", uid)
}

// Remove says what it could not remove, and does not hide it behind a closed port.
func TestRemoveTellsWhatStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount something that cannot be removed")
	}
	h := newHouse(t, time.Hour)
	busy := filepath.Join(h.dir, trustDir, "busy")
	require.NoError(t, os.Mkdir(busy, 0o700))
	require.NoError(t, unix.Mount("none", busy, "tmpfs", 0, ""))
	defer unix.Unmount(busy, 0)
	conn, err := h.dial(t, h.id, h.service.Pin(), ALPNInstaller)
	require.NoError(t, err)
	g, err := guest.Dial(t.Context(), conn, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = g.Remove(ctx)
	require.ErrorContains(t, err, busy)
	c, err := net.Dial("tcp", h.address)
	require.NoError(t, err, "it is there still, and so is its port")
	require.NoError(t, c.Close())
	require.NoError(t, g.Close())
	_ = h.stop()
}
