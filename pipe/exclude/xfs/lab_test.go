package xfs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// lab is a folder on an XFS whose files can be cloned in one moment: a guest's disk that is cloned there while it is
// written to is what a hypervisor's snapshot is.
type lab struct {
	dir   string
	count int
}

func newLab(t testing.TB) *lab {
	t.Helper()
	img := scratch(t)
	mkfsAt(t, img, "-d", "size=8192m", "-m", "reflink=1")
	return &lab{dir: fsystest.Mount(t, "xfs", img, "discard").Dir}
}

// path is that of a new file.
func (l *lab) path() string {
	l.count++
	return filepath.Join(l.dir, fmt.Sprint("disk", l.count))
}

// clone clones a disk in one moment.
func (l *lab) clone(t testing.TB, img string) string {
	t.Helper()
	to := l.path()
	fsystest.Clone(t, to, img)
	return to
}

// checkSnapshot holds what the reader makes of a snapshot against what the kernel makes of it, and proves that nothing of
// what is called free is needed: neither for the kernel's own replay nor after it. It returns the share of what the
// kernel calls free that the reader found.
//
// The kernel that replays here is newer than the xfsprogs that look at the result (6.18 and 6.1 when this was written):
// file systems are made by the older, so that they have only features that both know, and xfs_repair understands what the
// newer one wrote. A kernel that wrote features unknown to xfs_repair would fail the test there, not pass it.
func (l *lab) checkSnapshot(t testing.TB, img string) float64 {
	t.Helper()
	// The copy that is blanked goes first: what the reader says must not depend on a replay by the kernel.
	f, list := free(t, img)
	require.NoError(t, fsystest.CheckFree(t.Context(), f, size(t, img)))

	replayed := l.clone(t, img)
	tree, err := recovered(t, replayed)
	require.NoError(t, err, "the kernel cannot replay this snapshot")
	require.NoError(t, fsystest.Compare(t.Context(), f, tree, nil))

	// Garbage shows more than the zeros of a restore do, which look like a fresh file system to many a check. The long tier
	// has seeds enough for both.
	filler := fsystest.Garbage
	if l.count%3 == 0 && long() {
		filler = fsystest.Zero
	}
	blank := l.clone(t, img)
	require.NoError(t, fsystest.BlankWith(blank, list, filler))
	same, err := recovered(t, blank)
	require.NoError(t, err)
	require.NoError(t, tree.Diff(same))
	repair(t, blank)

	found := float64(total(list)) / float64(total(toolFree(t, replayed, f)))
	require.NoError(t, errors.Join(os.Remove(replayed), os.Remove(blank)))
	return found
}

// repair fails the test where xfs_repair finds anything.
func repair(t testing.TB, img string) {
	t.Helper()
	fsystest.Tool(t, nil, "xfs_repair", "-n", "-f", "-o", "force_geometry", img)
}
