package ext_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// aged is a folder with what Age makes, and its scan.
func aged(t testing.TB, seed uint64, ops int, opts *fsystest.AgeOptions) (string, fsystest.Tree) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the names are those of POSIX")
	}
	dir := t.TempDir()
	require.NoError(t, fsystest.Age(dir, seed, ops, opts))
	tree, err := fsystest.Scan(dir)
	require.NoError(t, err)
	return dir, tree
}

// R016: of every feature set that mke2fs makes, what is free is what dumpe2fs calls free, and the files are those that were put in.
func TestShapes(t *testing.T) {
	t.Parallel()
	dir, tree := aged(t, 11, 150, &fsystest.AgeOptions{MaxFile: 300 << 10, MaxFiles: 300, NoSpecial: true, RawNames: true})
	// mke2fs cuts files with holes short where it puts the beginning of files into inodes.
	dense, denseTree := aged(t, 12, 150, &fsystest.AgeOptions{MaxFile: 300 << 10, MaxFiles: 300, NoSpecial: true, NoHoles: true})
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			dir, tree := dir, tree
			if strings.Contains(s.args, "inline_data") {
				dir, tree = dense, denseTree
			}
			img := s.make(t, dir)
			f := open(t, img)
			info := f.Info()
			require.Empty(t, info.Doubt)
			require.Equal(t, s.kind, info.Kind)
			if !strings.Contains(s.args, "-r 0") {
				require.Equal(t, "0d1c2b3a-4958-6776-8594-a3b2c1d0e0f0", info.UUID)
				require.Equal(t, "label", info.Label)
			}
			require.Equal(t, dumped(t, img), freeOf(t, f))
			require.NoError(t, fsystest.CheckFree(t.Context(), f, info.Size))
			require.NoError(t, fsystest.Compare(t.Context(), f, tree, &fsystest.CompareOptions{
				NoLinks: true, NoDirTimes: true, NoOwner: true, Times: 1e9,
				Ignore: func(path string) bool { return path == "lost+found" },
			}))
		})
	}
}

// Everything else in the root is an error of a kind that callers can tell.
func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	f := open(t, shapes[0].make(t, dir))
	_, err := f.Stat(t.Context(), 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.Stat(t.Context(), 1<<40)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.Stat(t.Context(), 5000)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.ReadAt(t.Context(), f.Root(), make([]byte, 1), 0)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = f.Readlink(t.Context(), f.Root())
	require.ErrorIs(t, err, fs.ErrInvalid)
	attr, err := f.Stat(t.Context(), 8)
	require.NoError(t, err)
	require.NotEmpty(t, attr.Kept, "the log")
	for e, err := range f.ReadDir(t.Context(), f.Root()) {
		require.NoError(t, err)
		if e.Name == "file" {
			for _, err := range f.ReadDir(t.Context(), e.Node) {
				require.ErrorIs(t, err, fs.ErrInvalid)
			}
			_, err := f.ReadAt(t.Context(), e.Node, make([]byte, 1), -1)
			require.True(t, errors.Is(err, fs.ErrInvalid))
		}
	}
	require.Empty(t, f.Info().Doubt, "none of this is damage")
}
