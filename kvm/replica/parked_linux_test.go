package replica

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// A real QEMU whose processors never run opens a replica's disks, writes to them by its monitor, ends, is resumed, and is
// sealed: what it wrote is the next point, and no more. While it runs nobody takes its disks away.
func TestParked(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	s, m := twoPoints(t)
	var busy *hikae.BusyError
	var refused *StateError
	_, err := s.Resume(t.Context(), "vm", nil)
	require.ErrorAs(t, err, &refused)
	command := []string{"qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-S", "-nodefaults", "-no-user-config", "-display", "none", "{disks}"}
	f, err := s.Failover(t.Context(), "vm", &FailoverOptions{Command: command})
	require.NoError(t, err)
	t.Cleanup(func() { endParked(t, f.State.Monitor) })
	require.Equal(t, m.ids[1], f.Info.ID)
	by, err := f.State.Running(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, by)
	require.ErrorAs(t, s.Undo(t.Context(), "vm"), &busy)
	_, err = s.Seal(t.Context(), "vm")
	require.ErrorAs(t, err, &busy)
	_, err = s.Resume(t.Context(), "vm", nil)
	require.ErrorAs(t, err, &busy)
	poke(t, f.State.Monitor, "write -P 9 0 1000", "write -P 8 200k 66k")
	endParked(t, f.State.Monitor)

	again, err := s.Resume(t.Context(), "vm", nil)
	require.NoError(t, err)
	require.Equal(t, f.State, again.State)
	poke(t, f.State.Monitor, "write -z 330k 10k")
	endParked(t, f.State.Monitor)
	info, err := s.Seal(t.Context(), "vm")
	require.NoError(t, err)
	want := bytes.Clone(m.points[m.ids[1]].disks["disk0"])
	copy(want, bytes.Repeat([]byte{9}, 1000))
	copy(want[200<<10:], bytes.Repeat([]byte{8}, 66<<10))
	clear(want[330<<10 : 340<<10])
	m.add(info.ID, modelPoint{disks: map[string][]byte{"disk0": want}, blob: m.points[m.ids[1]].blob})
	m.check(t, s, "vm", true)
	m.keep(t, s, "vm", 1)
	m.check(t, s, "vm", true)
}

// poke writes to the first disk by QEMU's monitor, as its guest would.
func poke(t *testing.T, monitor string, commands ...string) {
	t.Helper()
	mon, err := qmp.Dial(t.Context(), monitor)
	require.NoError(t, err)
	defer mon.Close()
	for _, c := range append(commands, "flush") {
		var said string
		require.NoError(t, mon.Execute(t.Context(), "human-monitor-command", map[string]any{"command-line": `qemu-io -d /machine/peripheral-anon/device[0]/virtio-backend "` + c + `"`}, &said))
		require.Empty(t, said, c)
	}
}

// endParked ends a QEMU, and waits until it is gone.
func endParked(t *testing.T, monitor string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own may have ended
	defer cancel()
	for {
		mon, err := qmp.Dial(ctx, monitor)
		if nobodyThere(err) {
			return
		}
		if !assert.NoError(t, ctx.Err(), "%v", err) {
			return
		}
		if err != nil { // it is on its way
			continue
		}
		_ = mon.Execute(ctx, "quit", nil, nil) // it may end before it answers
		mon.Close()
	}
}
