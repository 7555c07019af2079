package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/kvm"
)

// ga starts QEMU's guest agent on a socket of this test's.
func ga(t *testing.T) (socket string) {
	t.Helper()
	name, err := exec.LookPath("qemu-ga")
	if err != nil {
		t.Skip("needs qemu-ga")
	}
	dir, err := os.MkdirTemp("", "hk") // short, for the socket
	require.NoError(t, err)
	socket = filepath.Join(dir, "ga")
	cmd := exec.Command(name, "--method", "unix-listen", "--path", socket, "--statedir", dir, "--pidfile", filepath.Join(dir, "pid"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	require.Eventually(t, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return socket
}

// R141's sibling for KVM: with no network at all, the component is brought in, freezes, thaws and is removed by the
// hypervisor's own way into its guest.
func TestByGuestAgent(t *testing.T) {
	point := volume(t, "ext4")
	open := time.Now()
	ch, err := guest.Over(soon(t), guest.QGA, kvm.OpenGuest(ga(t)), nil)
	require.NoError(t, err)
	defer ch.Close()
	dir := filepath.Join(t.TempDir(), agent.Prefix+"q")
	require.NoError(t, ch.MakeDir(soon(t), dir))
	p := program(t) // brought here by a link: what qemu-ga's own writing does is tested with it
	small := filepath.Join(dir, "brought")
	require.NoError(t, ch.Upload(soon(t), small, []byte("x"), 0o600))
	connected := time.Now()
	c, err := guest.Connect(soon(t), ch, p, nil)
	require.NoError(t, err)
	defer c.Close()
	ready := time.Now()
	q := c.Quiesce(wire.FreezeArgs{Mounts: []string{point}})
	require.NoError(t, q.Freeze(soon(t)))
	frozen := time.Now()
	require.NoError(t, q.Thaw(soon(t)))
	thawed := time.Now()
	require.True(t, q.Thawed().Held)
	require.Equal(t, point, q.Frozen().Frozen[0].Mount)
	require.False(t, thawNow(point))
	_, err = c.Remove(soon(t))
	require.NoError(t, err)
	gone(t, p)
	require.NoError(t, ch.Remove(soon(t), dir))
	t.Logf("opened in %v, connected in %v, freeze %v, thaw %v, frozen for %v, removed in %v", connected.Sub(open), ready.Sub(connected),
		frozen.Sub(ready), thawed.Sub(frozen), time.Duration(q.Thawed().FrozenMicros)*time.Microsecond, time.Since(thawed))

	// The guest's agent dies in a freeze: the component that stays thaws when the hold is over.
	p = program(t)
	c, err = guest.Connect(soon(t), ch, p, &guest.ComponentOptions{Lease: 2 * time.Second})
	require.NoError(t, err)
	froze(t, c, point, time.Second)
	took := goesOn(t, point, func() { ch.Close() })
	require.Less(t, took, 3*time.Second)
	c.Close()
	gone(t, p)
}
