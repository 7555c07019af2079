package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func openOS(t *testing.T) *osFS {
	t.Helper()
	fsys, err := Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, fsys.Close()) })
	return fsys.(*osFS)
}

func touch(t *testing.T, d *osFS, name, content string) {
	t.Helper()
	f, err := d.Create(name)
	require.NoError(t, err)
	_, err = f.Write([]byte(content))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func refuse(err error) func(string, string) error { return func(string, string) error { return err } }

// NFS knows no rename without replacing: a link does it, and the rename is not tried again.
func TestPublishByLink(t *testing.T) {
	d := openOS(t)
	tries := 0
	d.rename = func(string, string) error {
		tries++
		return syscall.EINVAL
	}
	touch(t, d, "1", "first")
	touch(t, d, "2", "second")
	require.NoError(t, d.Publish("1", "x"))
	require.ErrorIs(t, d.Publish("2", "x"), fs.ErrExist)
	require.Equal(t, 1, tries)
	got, err := d.root.ReadFile("x")
	require.NoError(t, err)
	require.Equal(t, "first", string(got))
	_, err = d.Lstat("1")
	require.ErrorIs(t, err, fs.ErrNotExist, "the old name is gone")
}

// A server may do the link, lose the answer, be asked again and say that the name is taken. It is taken by us.
func TestPublishByLinkWithALostAnswer(t *testing.T) {
	d := openOS(t)
	d.rename = refuse(errors.ErrUnsupported)
	d.link = func(oldname, newname string) error {
		if err := d.root.Link(oldname, newname); err != nil {
			return err
		}
		return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: syscall.EEXIST}
	}
	touch(t, d, "1", "first")
	touch(t, d, "2", "second")
	require.NoError(t, d.Publish("1", "x"))
	require.ErrorIs(t, d.Publish("2", "x"), fs.ErrExist)
}

func TestPublishNotAtAll(t *testing.T) {
	d := openOS(t)
	d.rename = refuse(syscall.EINVAL)
	d.link = refuse(syscall.EPERM)
	touch(t, d, "1", "first")
	err := d.Publish("1", "x")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, syscall.EPERM, "the cause is told too")
}

// A real failure is no reason to try another way.
func TestPublishFails(t *testing.T) {
	d := openOS(t)
	d.rename = refuse(syscall.EIO)
	d.link = refuse(nil)
	require.ErrorIs(t, d.Publish("1", "x"), syscall.EIO)
}

func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	require.NoError(t, Make(dir))
	require.NoError(t, Make(dir))
	require.DirExists(t, dir)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorIs(t, Make(file), ErrIrregular)
	require.Error(t, Make(filepath.Join(file, "below")))
}

func TestHex(t *testing.T) {
	require.Equal(t, "6eb1ec1f97a2", hex("6EB1EC1F-97a2\n"))
	require.Equal(t, "", hex("../zz"))
}
