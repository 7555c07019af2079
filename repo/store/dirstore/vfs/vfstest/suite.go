package vfstest

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// TestFS says whether a file system keeps the contract of [vfs.FS] as far as that shows without a power cut.
func TestFS(t *testing.T, open func(t testing.TB) vfs.FS) {
	t.Run("files", func(t *testing.T) { testFiles(t, open(t)) })
	t.Run("folders", func(t *testing.T) { testFolders(t, open(t)) })
	t.Run("publish", func(t *testing.T) { testPublish(t, open(t)) })
	t.Run("hold", func(t *testing.T) { testHold(t, open(t)) })
}

func write(t testing.TB, fsys vfs.FS, name, content string) {
	t.Helper()
	f, err := fsys.Create(name)
	require.NoError(t, err)
	n, err := f.Write([]byte(content))
	require.NoError(t, err)
	require.Equal(t, len(content), n)
	require.NoError(t, f.Sync())
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, len(content), size)
	require.NoError(t, f.Close())
}

func read(t testing.TB, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	require.NoError(t, err)
	p := make([]byte, 100)
	n, err := f.ReadAt(p, 0)
	require.Equal(t, io.EOF, err)
	require.NoError(t, f.Close())
	return string(p[:n])
}

func ls(t testing.TB, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	for fi, err := range fsys.ReadDir(dir) {
		require.NoError(t, err)
		names = append(names, fi.Name())
	}
	slices.Sort(names)
	return names
}

func testFiles(t *testing.T, fsys vfs.FS) {
	write(t, fsys, "a", "content")
	_, err := fsys.Create("a")
	require.ErrorIs(t, err, fs.ErrExist)
	require.Equal(t, "content", read(t, fsys, "a"))
	fi, err := fsys.Lstat("a")
	require.NoError(t, err)
	require.True(t, fi.Mode().IsRegular())
	require.EqualValues(t, 7, fi.Size())

	f, err := fsys.Open("a")
	require.NoError(t, err)
	linked, err := f.Linked()
	require.NoError(t, err)
	require.True(t, linked)
	require.NoError(t, fsys.Remove("a"))
	linked, err = f.Linked()
	require.NoError(t, err)
	require.False(t, linked)
	require.NoError(t, f.Close())

	_, err = fsys.Open("a")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = fsys.Lstat("a/b")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, fsys.Remove("a"), fs.ErrNotExist)
}

func testFolders(t *testing.T, fsys vfs.FS) {
	require.ErrorIs(t, fsys.Mkdir("d/e"), fs.ErrNotExist)
	require.NoError(t, fsys.Mkdir("d"))
	require.ErrorIs(t, fsys.Mkdir("d"), fs.ErrExist)
	write(t, fsys, "d/1", "x")
	require.NoError(t, fsys.Mkdir("d/e"))
	require.Equal(t, []string{"1", "e"}, ls(t, fsys, "d"))
	require.Equal(t, []string{"d"}, ls(t, fsys, "."))
	_, err := fsys.Open("d/e")
	require.ErrorIs(t, err, vfs.ErrIrregular)
	require.Error(t, fsys.Remove("d"), "it is not empty")
	require.NoError(t, fsys.Remove("d/e"))
	for _, err := range fsys.ReadDir("d/e") {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	for range fsys.ReadDir("d") {
		break
	}
	err = fsys.SyncDir("d")
	require.True(t, err == nil || errors.Is(err, errors.ErrUnsupported), "%v", err)
	require.ErrorIs(t, fsys.SyncDir("none"), fs.ErrNotExist)
}

func testPublish(t *testing.T, fsys vfs.FS) {
	require.NoError(t, fsys.Mkdir("from"))
	require.NoError(t, fsys.Mkdir("to"))
	write(t, fsys, "from/1", "first")
	write(t, fsys, "from/2", "second")
	err := fsys.Publish("from/1", "to/x")
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	require.NoError(t, err)
	require.ErrorIs(t, fsys.Publish("from/2", "to/x"), fs.ErrExist)
	require.Equal(t, "first", read(t, fsys, "to/x"))
	require.Equal(t, "second", read(t, fsys, "from/2"))
	require.Equal(t, []string{"2"}, ls(t, fsys, "from"))
	require.ErrorIs(t, fsys.Publish("from/none", "to/y"), fs.ErrNotExist)
	require.ErrorIs(t, fsys.Publish("from/2", "none/y"), fs.ErrNotExist)
	require.ErrorIs(t, fsys.Publish("from/2", "to"), fs.ErrExist, "a folder is not replaced either")
	require.NoError(t, fsys.Rename("from/2", "to/x"))
	require.Equal(t, "second", read(t, fsys, "to/x"))
}

func testHold(t *testing.T, fsys vfs.FS) {
	require.NoError(t, fsys.Mkdir("d"))
	hold, err := fsys.Hold("d")
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	require.NoError(t, err)
	_, err = fsys.Hold("d")
	require.ErrorIs(t, err, vfs.ErrHeld)
	require.NoError(t, hold.Close())
	hold, err = fsys.Hold("d")
	require.NoError(t, err)
	require.NoError(t, fsys.Remove("d"))
	require.NoError(t, hold.Close())
	_, err = fsys.Hold("d")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
