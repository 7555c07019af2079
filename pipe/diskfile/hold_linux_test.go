package diskfile_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/diskfile"
)

// TestHold: while a file is held, QEMU reads it and does not write to it; one that is being written to is not held.
func TestHold(t *testing.T) {
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed")
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	write := func() ([]byte, error) {
		return exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", "-c", "write 0 4096", path).CombinedOutput()
	}
	release, err := diskfile.Hold(path)
	require.NoError(t, err)
	again, err := diskfile.Hold(path)
	require.NoError(t, err, "readers share")
	require.NoError(t, again())
	out, err := exec.CommandContext(t.Context(), "qemu-io", "-r", "-f", "raw", "-c", "read 0 4096", path).CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = write()
	require.Error(t, err)
	require.Contains(t, string(out), `Failed to get "write" lock`)
	_, err = diskfile.OpenTarget(path, nil)
	var locked *diskfile.LockedError
	require.ErrorAs(t, err, &locked)
	require.NoError(t, release())
	require.NoError(t, release())
	out, err = write()
	require.NoError(t, err, string(out))

	target, err := diskfile.OpenTarget(path, nil)
	require.NoError(t, err)
	_, err = diskfile.Hold(path)
	require.ErrorAs(t, err, &locked)
	require.NoError(t, target.Close())
	_, err = diskfile.Hold(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = diskfile.Hold(t.TempDir())
	require.ErrorIs(t, err, diskfile.ErrNotDisk)
}
