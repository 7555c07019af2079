package xfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// find looks up a name in the root directory.
func find(t testing.TB, f fsys.FileSystem, name string) fsys.Node {
	t.Helper()
	for e, err := range f.ReadDir(t.Context(), f.Root()) {
		require.NoError(t, err)
		if e.Name == name {
			return e.Node
		}
	}
	t.Fatalf("no %q", name)
	return 0
}

// kinds lists the runs of a file.
func kinds(t testing.TB, f fsys.FileSystem, name string) (list []fsys.Run) {
	t.Helper()
	for r, err := range f.Runs(t.Context(), find(t, f, name)) {
		require.NoError(t, err)
		if k := len(list); k > 0 && list[k-1].Kind == r.Kind {
			list[k-1].Len += r.Len
		} else {
			list = append(list, r)
		}
	}
	return list
}

// TestShared holds what is said of files that share blocks (R018: such blocks are not theirs alone to leave out).
func TestShared(t *testing.T) {
	img := mkfs(t)
	m := fsystest.Mount(t, "xfs", img)
	at := func(name string) string { return filepath.Join(m.Dir, name) }
	require.NoError(t, os.WriteFile(at("one"), bytes.Repeat([]byte{1}, 256<<10), 0o600))
	require.NoError(t, share(at("two"), at("one")))
	f, err := os.OpenFile(at("two"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{2}, 64<<10), 64<<10)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, share(at("three"), at("one")))
	require.NoError(t, os.Remove(at("three")))
	require.NoError(t, os.WriteFile(at("own"), bytes.Repeat([]byte{3}, 128<<10), 0o600))
	require.NoError(t, share(at("gone"), at("own")))
	require.NoError(t, os.Remove(at("gone")))
	require.NoError(t, m.Unmount())

	x, _ := free(t, img)
	const k = 1 << 10
	for name, want := range map[string][]fsys.Run{
		"one": {{File: 0, Len: 64 * k, Kind: fsys.Shared}, {File: 64 * k, Len: 64 * k, Kind: fsys.Written}, {File: 128 * k, Len: 128 * k, Kind: fsys.Shared}},
		"two": {{File: 0, Len: 64 * k, Kind: fsys.Shared}, {File: 64 * k, Len: 64 * k, Kind: fsys.Written}, {File: 128 * k, Len: 128 * k, Kind: fsys.Shared}},
		"own": {{File: 0, Len: 128 * k, Kind: fsys.Written}},
	} {
		got := kinds(t, x, name)
		for i := range got {
			got[i].Vol = 0
		}
		assert.Equal(t, want, got, name)
	}
}

// TestGrown replays a log in which the file system became larger.
func TestGrown(t *testing.T) {
	l := newLab(t)
	img := l.path()
	mkfsAt(t, img)
	require.NoError(t, os.Truncate(img, 800<<20))
	m := fsystest.Mount(t, "xfs", img, "nouuid")
	require.NoError(t, fsystest.Age(m.Dir, 3, 60, nil))
	require.NoError(t, grow(m.Dir, 800<<20/4096))
	require.NoError(t, ageAgain(m.Dir, 4, 60, nil))
	require.NoError(t, m.Sync())
	snapshot := l.clone(t, img)
	require.NoError(t, m.Unmount())
	f, _ := free(t, snapshot)
	assert.Equal(t, int64(800<<20), f.Info().Size)
	assert.NotZero(t, f.Info().Replayed)
	assert.Greater(t, l.checkSnapshot(t, snapshot), 0.9)
}
