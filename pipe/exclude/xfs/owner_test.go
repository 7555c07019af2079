package xfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// TestOwnerChange replays what a defragmenter does: two files swap their trees of extents, whose blocks change their
// owner by no more than a note in the log.
func TestOwnerChange(t *testing.T) {
	l := newLab(t)
	img := l.path()
	mkfsAt(t, img, "-d", "size=320m", "-m", "reflink=0")
	m := fsystest.Mount(t, "xfs", img, "nouuid")
	one, two := filepath.Join(m.Dir, "one"), filepath.Join(m.Dir, "two")
	require.NoError(t, errors.Join(scattered(one, 1), scattered(two, 2)))
	require.NoError(t, m.Sync())
	require.NotContains(t, fsystest.Tool(t, nil, "xfs_io", "-c", "swapext "+two, one), "rror")
	tree, err := fsystest.Scan(m.Dir)
	require.NoError(t, err)
	require.NoError(t, m.Sync())
	snapshot := l.clone(t, img)
	require.NoError(t, m.Unmount())
	vol, err := fsystest.Image(snapshot)
	require.NoError(t, err)
	defer vol.Close()
	if n, err := xfs.Adopted(t.Context(), vol); err != nil || n == 0 {
		t.Skipf("this kernel swaps extents in another way: %d owners changed, %v", n, err)
	}
	// A kernel of 6.18 refuses to replay this log of its own (its check of an inode fails half way), so the tree is held
	// against what was mounted, and the volume against itself.
	f, list := free(t, snapshot)
	require.NoError(t, fsystest.Compare(t.Context(), f, tree, nil))
	require.NoError(t, fsystest.CheckFree(t.Context(), f, size(t, snapshot)))
	require.NotEmpty(t, list)
}

// scattered makes a file of more extents than an inode holds.
func scattered(path string, b byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for i := int64(0); i < 900 && err == nil; i++ {
		_, err = f.WriteAt(bytes.Repeat([]byte{b}, 4<<10), i*16<<10)
	}
	return errors.Join(err, f.Close())
}
