package sshchannel

import (
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
)

// A component that is taken away by force while it holds a file system frozen leaves it thawed: its watchdog is let live
// until it has done that.
func TestTakenAwayWhileFrozen(t *testing.T) {
	t.Parallel()
	guesttest.Program(t, "mkfs.ext4")
	programs := programs(t)
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true,
		Setup: "mkdir /run/disk; truncate -s 32M /run/image; mkfs.ext4 -q /run/image; mount -o loop /run/image /run/disk"})
	c := open(t, wayTo(h))
	frozen := func() *guest.Deployed {
		d, err := guest.Deploy(within(t, 20*time.Second), c, programs, nil)
		require.NoError(t, err)
		a, err := d.Component.Freeze(within(t, 20*time.Second), wire.FreezeArgs{Mounts: []string{"/run/disk"}, HoldMillis: 30_000})
		require.NoError(t, err)
		require.Len(t, a.Frozen, 1)
		return d
	}
	writes := func() {
		start := time.Now()
		h.Run("echo x >/run/disk/x && sync -f /run/disk/x")
		require.Less(t, time.Since(start), 5*time.Second)
		require.Empty(t, h.Left())
	}

	d := frozen()
	require.NoError(t, d.Remove(within(t, 20*time.Second)))
	writes()

	d = frozen()
	require.NoError(t, guest.TakeAway(within(t, 20*time.Second), open(t, wayTo(h)), d.Program))
	writes()
	require.NoError(t, d.Remove(within(t, 20*time.Second)))

	frozen()
	h.Cut()
	nothingLeft(t, h)
	writes()
}
