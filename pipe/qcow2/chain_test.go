package qcow2_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

// overlay writes an image without data whose header names a backing file. An empty format is not stated.
func overlay(t *testing.T, path, backing, format string) {
	t.Helper()
	f := v3().l1(0, 0)
	if format != "" {
		f.extension(0xe2792aca, format)
	}
	copy(f.b[1024:], backing)
	f.u64(8, 1024).u32(16, uint32(len(backing)))
	require.NoError(t, os.WriteFile(path, f.b, 0o600))
}

// data writes an image that begins with "data".
func data(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, v3().b, 0o600))
}

func startOf(t *testing.T, path string, opts *qcow2.Options) (string, error) {
	t.Helper()
	img, err := qcow2.Open(t.Context(), path, opts)
	if err != nil {
		return "", err
	}
	defer img.Close()
	b := make([]byte, 4)
	_, err = img.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	return string(b), nil
}

func refused(t *testing.T, path string, opts *qcow2.Options, reason string) {
	t.Helper()
	_, err := startOf(t, path, opts)
	var ref *qcow2.ReferenceError
	require.ErrorAs(t, err, &ref, path)
	require.ErrorContains(t, err, reason)
	require.NotEmpty(t, ref.Reference)
}

// TestBackingPolicy: nothing is opened outside of what the user named.
func TestBackingPolicy(t *testing.T) {
	home, away := t.TempDir(), t.TempDir()
	top := filepath.Join(home, "top")
	data(t, filepath.Join(home, "base"))
	data(t, filepath.Join(away, "base"))
	require.NoError(t, os.Mkdir(filepath.Join(home, "sub"), 0o700))
	data(t, filepath.Join(home, "sub", "base"))

	for _, good := range []string{"base", "./base", "sub/../base", filepath.Join(home, "base")} {
		overlay(t, top, good, "qcow2")
		got, err := startOf(t, top, nil)
		require.NoError(t, err, good)
		require.Equal(t, "data", got)
	}
	escape, err := filepath.Rel(home, filepath.Join(away, "base"))
	require.NoError(t, err)
	for _, bad := range []string{filepath.Join(away, "base"), escape, "sub/base", "/etc/passwd", "../../../../../../etc/passwd"} {
		overlay(t, top, bad, "qcow2")
		refused(t, top, nil, "outside of the allowed folders")
	}
	for _, dir := range []string{away, filepath.Dir(away)} {
		overlay(t, top, filepath.Join(away, "base"), "qcow2")
		_, err = startOf(t, top, &qcow2.Options{Allow: []string{dir}})
		require.NoError(t, err)
	}
	overlay(t, top, "sub", "qcow2")
	refused(t, top, nil, "it is a folder")
	overlay(t, top, "gone", "qcow2")
	refused(t, top, nil, "cannot be found")
	_, err = startOf(t, top, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, bad := range []string{"json:{\"driver\":\"file\"}", "nbd:localhost:10809", "nbd://host/x", "file:base", "ssh://h/x"} {
		overlay(t, top, bad, "qcow2")
		refused(t, top, nil, "only paths of files")
	}
	overlay(t, top, "base\x00/etc/passwd", "qcow2")
	refused(t, top, nil, "it is no path")
}

// TestBackingLinks: symbolic links are resolved before a place is judged.
func TestBackingLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege there")
	}
	home, away := t.TempDir(), t.TempDir()
	top := filepath.Join(home, "top")
	data(t, filepath.Join(away, "base"))
	data(t, filepath.Join(home, "base"))
	require.NoError(t, os.Symlink(filepath.Join(away, "base"), filepath.Join(home, "out")))
	require.NoError(t, os.Symlink(away, filepath.Join(home, "outdir")))
	require.NoError(t, os.Symlink("base", filepath.Join(home, "in")))
	for _, bad := range []string{"out", "outdir/base"} {
		overlay(t, top, bad, "qcow2")
		refused(t, top, nil, "outside of the allowed folders")
	}
	overlay(t, top, "in", "qcow2")
	_, err := startOf(t, top, nil)
	require.NoError(t, err)

	link := filepath.Join(away, "link") // relative names are relative to what the user named, as QEMU has it
	require.NoError(t, os.Symlink(top, link))
	overlay(t, top, "base", "qcow2")
	got, err := startOf(t, link, nil)
	require.NoError(t, err)
	require.Equal(t, "data", got)
	require.NoError(t, os.Remove(filepath.Join(away, "base")))
	refused(t, link, nil, "cannot be found")
}

// TestBackingFormat: a format that is stated is believed; one that is not is probed, and leads nowhere else.
func TestBackingFormat(t *testing.T) {
	dir := t.TempDir()
	top, base := filepath.Join(dir, "top"), filepath.Join(dir, "base")
	data(t, base)
	overlay(t, top, "base", "raw") // a guest's disk that looks like qcow2 and is raw
	got, err := startOf(t, top, nil)
	require.NoError(t, err)
	require.Equal(t, "QFI\xfb", got)

	overlay(t, top, "base", "")
	got, err = startOf(t, top, nil)
	require.NoError(t, err)
	require.Equal(t, "data", got)

	data(t, filepath.Join(dir, "secret"))
	overlay(t, base, "secret", "raw")
	refused(t, top, nil, "a guest's words")
	got, err = startOf(t, top, &qcow2.Options{TrustProbe: true})
	require.NoError(t, err)
	require.Equal(t, "QFI\xfb", got)
	overlay(t, top, "base", "qcow2")
	_, err = startOf(t, top, nil)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(base, []byte("just a raw disk"), 0o600))
	overlay(t, top, "base", "")
	got, err = startOf(t, top, nil)
	require.NoError(t, err)
	require.Equal(t, "just", got)

	for _, format := range []string{"", "vmdk"} {
		require.NoError(t, os.WriteFile(base, []byte("KDMV\x01"), 0o600))
		overlay(t, top, "base", format)
		var other *diskfile.FormatError
		_, err = startOf(t, top, nil)
		require.ErrorAs(t, err, &other)
		require.Equal(t, "vmdk", other.Format)
	}
}

func TestBackingCycle(t *testing.T) {
	dir := t.TempDir()
	overlay(t, filepath.Join(dir, "a"), "b", "qcow2")
	overlay(t, filepath.Join(dir, "b"), "a", "qcow2")
	overlay(t, filepath.Join(dir, "self"), "self", "qcow2")
	require.NoError(t, os.Link(filepath.Join(dir, "self"), filepath.Join(dir, "twin"))) // by another name
	for _, name := range []string{"a", "self", "twin"} {
		refused(t, filepath.Join(dir, name), nil, "leads back")
	}
}

func TestBackingDepth(t *testing.T) {
	dir := t.TempDir()
	name := func(i int) string { return fmt.Sprintf("image%d", i) }
	data(t, filepath.Join(dir, name(0)))
	for i := range 201 {
		overlay(t, filepath.Join(dir, name(i+1)), name(i), "qcow2")
	}
	got, err := startOf(t, filepath.Join(dir, name(199)), nil) // 200 images
	require.NoError(t, err)
	require.Equal(t, "data", got)
	err = bounded(t, func() error {
		_, err := qcow2.Open(t.Context(), filepath.Join(dir, name(200)), nil)
		return err
	})
	require.ErrorContains(t, err, "deeper than 200")
}

// TestBackingShort: past the end of its backing file a disk is zero.
func TestBackingShort(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "base"), bytes.Repeat([]byte("x"), 5000), 0o600))
	overlay(t, top, "base", "raw")
	img, err := qcow2.Open(t.Context(), top, nil)
	require.NoError(t, err)
	defer img.Close()
	got := readAll(t, img, 3000)
	require.Equal(t, append(bytes.Repeat([]byte("x"), 5000), make([]byte, 64<<10-5000)...), got)
	all := extents(t, img, 0, img.Size())
	require.Equal(t, []pipe.Extent{{Len: 5000, Kind: pipe.Data}, {Off: 5000, Len: 64<<10 - 5000}}, all)
}

// TestDataFilePolicy: the same rules hold for an external data file.
func TestDataFilePolicy(t *testing.T) {
	home, away := t.TempDir(), t.TempDir()
	top := filepath.Join(home, "top")
	content := bytes.Repeat([]byte("elsewhere"), 2000)
	for _, dir := range []string{home, away} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), content, 0o600))
	}
	write := func(name string) {
		f := v3().u64(72, 1<<2).l2(0, 1<<63|4096).l2(1, 1<<63).l2(2, 0) // the second cluster is at 0
		f.extension(0x44415441, name)
		require.NoError(t, os.WriteFile(top, f.b, 0o600))
	}
	write("data")
	img, err := qcow2.Open(t.Context(), top, nil)
	require.NoError(t, err)
	got := readAll(t, img, 100)
	require.Equal(t, content[4096:8192], got[:4096])
	require.Equal(t, content[:4096], got[4096:8192])
	require.NoError(t, img.Close())

	write(filepath.Join(away, "data"))
	refused(t, top, nil, "outside of the allowed folders")
	_, err = startOf(t, top, &qcow2.Options{Allow: []string{away}})
	require.NoError(t, err)
	write("nbd:x")
	refused(t, top, nil, "only paths of files")
	write("top")
	refused(t, top, nil, "leads back")
}

// TestChangedInChain: any file of a chain that is written to while it is read is found out.
func TestChangedInChain(t *testing.T) {
	dir := t.TempDir()
	top, base := filepath.Join(dir, "top"), filepath.Join(dir, "base")
	data(t, base)
	overlay(t, top, "base", "qcow2")
	for _, live := range []bool{false, true} {
		img, err := qcow2.Open(t.Context(), top, &qcow2.Options{Live: live})
		require.NoError(t, err)
		require.NoError(t, diskfile.Changed(img))
		time.Sleep(20 * time.Millisecond)
		data(t, base)
		var changed *diskfile.ChangedError
		require.ErrorAs(t, diskfile.Changed(img), &changed)
		if live {
			require.NoError(t, img.Close())
			continue
		}
		require.ErrorAs(t, img.Close(), &changed)
	}
}

// TestNoFilesLeftOpen: whatever fails, no file stays open.
func TestNoFilesLeftOpen(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("/proc is not there")
		}
		return len(list)
	}
	dir := t.TempDir()
	before := count()
	for _, backing := range []string{"b", "a", "/etc/passwd", "gone", "nbd:x"} {
		overlay(t, filepath.Join(dir, "a"), "b", "qcow2")
		overlay(t, filepath.Join(dir, "b"), backing, "qcow2")
		_, err := qcow2.Open(t.Context(), filepath.Join(dir, "a"), nil)
		require.Error(t, err)
	}
	require.Equal(t, before, count())
}
