package index

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/index/list"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/files"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// A disk's files are listed from the outside, with nothing in the guest.
func TestAddFSOfADisk(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs (e2fsprogs)")
	}
	dir := t.TempDir()
	src, disk := filepath.Join(dir, "src"), filepath.Join(dir, "disk")
	require.NoError(t, os.MkdirAll(filepath.Join(src, "etc/z"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(src, "etc.conf"), []byte("12345"), 0o640))
	require.NoError(t, os.WriteFile(filepath.Join(src, "etc/\xffodd\n"), nil, 0o600))
	require.NoError(t, os.Symlink("../etc.conf", filepath.Join(src, "etc/link")))
	out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=7:8", "-d", src, disk, "8M").CombinedOutput()
	require.NoError(t, err, string(out))

	img, err := diskfile.Open(disk, nil)
	require.NoError(t, err)
	defer img.Close()
	volume, err := exclude.Open(t.Context(), img)
	require.NoError(t, err)
	var made bytes.Buffer
	w, err := NewWriter(&made, nil)
	require.NoError(t, err)
	owner := func(info fs.FileInfo) (string, string) {
		a := info.Sys().(fsys.Attr)
		return strconv.FormatUint(uint64(a.UID), 10), strconv.FormatUint(uint64(a.GID), 10)
	}
	require.NoError(t, AddFS(t.Context(), w, root, files.FS(t.Context(), volume), &FSOptions{Owner: owner}))
	require.NoError(t, w.Close())

	x := open(t, made.Bytes())
	var paths []string
	for _, e := range all(t, x.Walk(t.Context(), 0, "")) {
		paths = append(paths, e.Path)
	}
	require.Equal(t, []string{"", "etc", "etc/\\xffodd\n", "etc/link", "etc/z", "etc.conf", "lost+found"}, paths)
	e, err := x.Stat(t.Context(), 0, "etc.conf")
	require.NoError(t, err)
	require.EqualValues(t, 5, e.Size)
	require.EqualValues(t, 0o640, e.Mode)
	e, err = x.Stat(t.Context(), 0, "etc/link")
	require.NoError(t, err)
	require.Equal(t, list.Link, e.Type)
	require.Equal(t, "../etc.conf", e.Target)
	e, err = x.Stat(t.Context(), 0, "")
	require.NoError(t, err)
	require.Equal(t, "7 8", e.Owner+" "+e.Group)
}
