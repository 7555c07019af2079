//go:build !windows

package trust

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What root does beside a service is the service's: else it could not read its own book any more, and would refuse
// everybody.
func TestFilesOfTheService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, who can give files away")
	}
	const service = 54321
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, service, service))
	_, err := LoadIdentity(dir)
	require.NoError(t, err)
	b, err := OpenBook(dir)
	require.NoError(t, err)
	enrolled(t, b, "one")
	for _, name := range names(t, dir) {
		fi, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.EqualValues(t, service, fi.Sys().(*syscall.Stat_t).Uid, name)
	}
	require.Len(t, names(t, dir), 3)
}

// A link that lies where the lock belongs gives nothing away.
func TestLockIsALink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, who can give files away")
	}
	dir, precious := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(precious, []byte("x"), 0o600))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, 54321, 54321))
	require.NoError(t, os.Symlink(precious, filepath.Join(dir, lockFile)))
	_, _ = LoadIdentity(dir)
	fi, err := os.Stat(precious)
	require.NoError(t, err)
	require.Zero(t, fi.Sys().(*syscall.Stat_t).Uid)
}
