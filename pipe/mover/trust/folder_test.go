package trust

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMakeFolder(t *testing.T) {
	top := t.TempDir()
	deep := filepath.Join(top, "a", "b", "c")
	require.Equal(t, []string{deep, filepath.Dir(deep), filepath.Join(top, "a")}, missing(deep))
	require.NoError(t, MakeFolder(deep))
	require.NoError(t, MakeFolder(deep))
	require.Empty(t, missing(deep))
	if runtime.GOOS == "windows" {
		return
	}
	fi, err := os.Stat(deep)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), fi.Mode().Perm())
	require.NoError(t, os.Chmod(deep, 0o777))
	require.ErrorIs(t, MakeFolder(deep), fs.ErrPermission, "others may write to it")
}

// A lock is one holder's, and who waits for it does not wait for ever.
func TestLockFolder(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, LockFolder(t.Context(), dir, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		err := LockFolder(ctx, dir, func() error { panic("two hold it") })
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return nil
	}))
	require.ErrorIs(t, LockFolder(t.Context(), dir, func() error { return fs.ErrInvalid }), fs.ErrInvalid)
}

func TestFindIdentityMakesNone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := FindIdentity(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoDirExists(t, dir)
	id, err := LoadIdentity(dir)
	require.NoError(t, err)
	found, err := FindIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, id.Pin(), found.Pin())
}
