package xfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// TestOwnerChange replays what xfs_fsr does: two files swap their trees of extents, whose blocks change their owner by
// no more than a note in the log.
func TestOwnerChange(t *testing.T) {
	l := newLab(t)
	img := l.path()
	mkfsAt(t, img, "-d", "size=640m", "-m", "reflink=0")
	m := fsystest.Mount(t, "xfs", img, "nouuid")
	path := filepath.Join(m.Dir, "torn")
	require.NoError(t, interleave(path, filepath.Join(m.Dir, "other"), 900))
	require.NoError(t, m.Sync())
	out := fsystest.Tool(t, []int{0, 1}, "xfs_fsr", "-v", path)
	require.NoError(t, m.Sync())
	snapshot := l.clone(t, img)
	require.NoError(t, m.Unmount())
	t.Log(out)
	assert.Greater(t, l.checkSnapshot(t, snapshot), 0.5)
}

// interleave writes two files a block at a time by turns, with a hole after each block of the first, so that it stays in many pieces however
// it is written anew.
func interleave(a, b string, n int64) error {
	fa, err := os.Create(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Create(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	block := bytes.Repeat([]byte{1}, 8<<10)
	for i := range n {
		_, err1 := fa.WriteAt(block[:4<<10], i*16<<10)
		err2 := fa.Sync()
		_, err3 := fa.WriteAt(block[:4<<10], i*16<<10+4<<10)
		_, err4 := fb.WriteAt(block, i*8<<10)
		if err := errors.Join(err1, err2, err3, err4, fb.Sync()); err != nil {
			return err
		}
	}
	return nil
}
