package kvmsite

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/replica"
)

// A real QEMU, whose guest hears no power button: it is asked, stopped with and without force, and started again.
func TestMachine(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	dir, err := os.MkdirTemp("", "hm") // short, for a socket
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	monitor := filepath.Join(dir, "qmp.sock")
	m := &Machine{Monitor: monitor, Within: time.Minute}
	runs, err := m.Running(t.Context())
	require.NoError(t, err)
	require.False(t, runs)
	require.NoError(t, m.Stop(t.Context()), "it is off")
	require.ErrorIs(t, m.Start(t.Context()), replica.ErrByHand)

	m.StartWith = func(ctx context.Context) error {
		return exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "32", "-S", "-nodefaults", "-display", "none", "-daemonize",
			"-pidfile", filepath.Join(dir, "pid"), "-qmp", "unix:"+monitor+",server=on,wait=off").Run()
	}
	require.NoError(t, m.Start(t.Context()))
	t.Cleanup(func() { (&Machine{Monitor: monitor, Within: time.Second, Hard: true}).Stop(context.Background()) })
	require.NoError(t, m.Start(t.Context()), "it runs already, and no second one is started")
	runs, err = m.Running(t.Context())
	require.NoError(t, err)
	require.True(t, runs)

	m.Within = time.Second
	require.ErrorIs(t, m.Stop(t.Context()), context.DeadlineExceeded)
	runs, err = m.Running(t.Context())
	require.NoError(t, err)
	require.True(t, runs, "it is not ended behind anybody's back")
	m.Hard = true
	require.NoError(t, m.Stop(t.Context()))
	runs, err = m.Running(t.Context())
	require.NoError(t, err)
	require.False(t, runs)

	wrong := errors.New("wrong")
	blind := &Machine{StopWith: func(context.Context) error { return wrong }, StartWith: func(context.Context) error { return nil }}
	_, err = blind.Running(t.Context())
	require.Error(t, err, "that nobody can be asked is no answer")
	require.ErrorIs(t, blind.Stop(t.Context()), wrong)
	require.NoError(t, blind.Start(t.Context()))
}
