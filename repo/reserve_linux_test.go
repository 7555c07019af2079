package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// small is a file system of so many MiB in memory.
func small(t *testing.T, mib int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	require.NoError(t, os.Mkdir(dir, 0o755))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs root, to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// top fills a file system to the last byte.
func top(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "somebody-elses-file"))
	require.NoError(t, err)
	for n := 1 << 20; n > 0; {
		if _, err = f.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 2
			_, _ = f.Seek(0, io.SeekEnd)
			continue
		}
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	var st syscall.Statfs_t
	require.NoError(t, syscall.Statfs(dir, &st))
	require.Zero(t, st.Bavail)
}

// Bar 6: the very first backup fills the disk, so that there is no cache that could give room, and somebody else takes what is left:
// a prune works all the same, with no byte free, and again after that; then there is room for a smaller one.
func TestPruneOfADiskThatTheFirstBackupFilled(t *testing.T) {
	ctx := t.Context()
	for _, mib := range []int{48, 80} { // two packs are written at once: with less both may fail, and there is nothing to free
		dir := small(t, mib)
		st, err := dirstore.Init(filepath.Join(dir, "repo"))
		require.NoError(t, err)
		r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, openOptions(t))
		require.NoError(t, err)
		info, err := os.Stat(filepath.Join(dir, "repo", ".reserve"))
		require.NoError(t, err)
		reserve := info.Size()
		for round := range 3 {
			noise := make([]byte, mib<<20)
			rand.NewChaCha8([32]byte{byte(mib), byte(round)}).Read(noise)
			_, failed := backup(ctx, r, "vm", pipe.FromReaderAt(bytes.NewReader(noise), int64(len(noise))), nil)
			require.ErrorIs(t, failed, syscall.ENOSPC)
			top(t, dir)
			rep, err := r.Prune(ctx, nil)
			require.NoError(t, err)
			require.Greater(t, rep.Freed, int64(mib)<<17, "round %d: %+v; the backup: %v", round, rep, failed)
			require.NoError(t, os.Remove(filepath.Join(dir, "somebody-elses-file")))
			info, err = os.Stat(filepath.Join(dir, "repo", ".reserve"))
			require.NoError(t, err)
			require.GreaterOrEqual(t, info.Size(), min(reserve, 384<<10))
		}
		mustBackup(t, r, "vm", disk(1), nil)
		rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
		require.NoError(t, err)
		require.True(t, rep.OK, "%+v", rep)
		require.NoError(t, r.Close())
		require.NoError(t, st.Close())
	}
}
