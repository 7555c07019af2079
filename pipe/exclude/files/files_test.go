package files

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// sourceTree makes a folder with what a machine has.
func sourceTree(t *testing.T, fstab string) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(rnd.Uint32())
	}
	for name, data := range map[string][]byte{
		"etc/fstab": []byte(fstab), "etc/hostname": []byte("web1\n"), "etc/empty": nil,
		"home/ann/größe und länge.txt": []byte("x"), "home/ann/.hidden": []byte("y"), "var/big": big,
		"data/.keep": nil,
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o640))
	}
	f, err := os.Create(filepath.Join(dir, "var/sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt(big[:5000], 40<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Symlink("/var", filepath.Join(dir, "home/ann/absolute")))
	require.NoError(t, os.Symlink("../../etc", filepath.Join(dir, "home/ann/relative")))
	require.NoError(t, os.Symlink("../../../../../etc/hostname", filepath.Join(dir, "home/beyond")))
	require.NoError(t, os.Link(filepath.Join(dir, "var/big"), filepath.Join(dir, "var/big2")))
	long := filepath.Join(dir, "long", strings.Repeat("n", 200))
	require.NoError(t, os.MkdirAll(long, 0o700))
	for i := range 300 {
		require.NoError(t, os.WriteFile(filepath.Join(long, fmt.Sprintf("%0100d", i)), []byte{byte(i)}, 0o600))
	}
	return dir
}

// makeExt puts an ext4 file system with a folder's files on a disk, from byte off on.
func makeExt(t *testing.T, disk, dir, uuid string, off, size int64) {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs (e2fsprogs)")
	}
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(off+size))
	require.NoError(t, f.Close())
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-d", dir,
		"-E", fmt.Sprintf("offset=%d", off), disk, fmt.Sprintf("%dk", size>>10)).CombinedOutput()
	require.NoError(t, err, string(out))
}

func openDisk(t *testing.T, name string) pipe.Image {
	t.Helper()
	img, err := diskfile.Open(name, nil)
	require.NoError(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}

const (
	rootUUID = "11111111-2222-3333-4444-555555555555"
	dataUUID = "aaaaaaaa-2222-3333-4444-555555555555"
)

// twoDisks is a machine with a partitioned disk that holds the root, and a second disk without a table that the root's
// /etc/fstab mounts.
func twoDisks(t *testing.T) (source string, m *Machine) {
	t.Helper()
	source = sourceTree(t, "# odd things\nUUID="+rootUUID+" / ext4 defaults 0 1\nUUID="+strings.ToUpper(dataUUID)+" /data ext4 x 0 2\nproc /proc proc x 0 0\n/dev/sdz9 /nowhere ext4 x 0 0\n")
	dir := t.TempDir()
	root, data := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.raw")
	makeExt(t, root, source, rootUUID, 1<<20, 64<<20)
	table(t, root, 1<<20, 64<<20)
	inner := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(inner, "ledger"), []byte("money"), 0o600))
	makeExt(t, data, inner, dataUUID, 0, 16<<20)
	m, err := Open(t.Context(), []layout.Disk{{Key: "a", Image: openDisk(t, root)}, {Key: "b", Image: openDisk(t, data)}}, ext.Open)
	require.NoError(t, err)
	return source, m
}

// table writes an MBR with one partition.
func table(t *testing.T, disk string, off, size int64) {
	t.Helper()
	var mbr [512]byte
	mbr[450] = 0x83
	binary.LittleEndian.PutUint32(mbr[454:], uint32(off/512))
	binary.LittleEndian.PutUint32(mbr[458:], uint32(size/512))
	mbr[510], mbr[511] = 0x55, 0xaa
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(mbr[:], 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestMachine(t *testing.T) {
	source, m := twoDisks(t)
	require.Len(t, m.Volumes, 2)
	require.Equal(t, "/", m.Volumes[0].Mount)
	require.Equal(t, "/data", m.Volumes[1].Mount)
	tree, err := m.Tree("")
	require.NoError(t, err)

	got, err := fs.ReadFile(tree, "data/ledger")
	require.NoError(t, err)
	require.Equal(t, "money", string(got), "what is mounted stands in the place of the folder")
	_, err = tree.Stat("data/.keep")
	require.ErrorIs(t, err, fs.ErrNotExist)
	alone, err := m.Tree(m.Volumes[0].Name)
	require.NoError(t, err)
	_, err = alone.Stat("data/.keep")
	require.NoError(t, err, "the volume alone shows the folder")
	_, err = m.Tree("b:7")
	require.ErrorIs(t, err, fs.ErrNotExist)

	for name, want := range map[string]string{"home/ann/relative/hostname": "web1\n", "home/beyond": "web1\n"} {
		got, err := fs.ReadFile(tree, name)
		require.NoError(t, err, name)
		require.Equal(t, want, string(got))
	}
	info, err := tree.Stat("home/ann/absolute/big")
	require.NoError(t, err)
	require.EqualValues(t, 3<<20, info.Size())
	small, err := fs.Sub(alone, "home") // it reads every file byte by byte
	require.NoError(t, err)
	require.NoError(t, fstest.TestFS(small, "ann/größe und länge.txt", "ann/.hidden"))

	var want, have []string
	require.NoError(t, filepath.WalkDir(source, func(name string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(source, name)
		want = append(want, rel)
		return err
	}))
	require.NoError(t, alone.Walk(".", func(name string, _ fs.DirEntry, err error) error {
		if name == "lost+found" {
			return fs.SkipDir
		}
		have = append(have, name)
		return err
	}))
	slices.Sort(want)
	slices.Sort(have)
	require.Equal(t, want, have)
}

func TestExtract(t *testing.T) {
	source, m := twoDisks(t)
	tree, err := m.Tree(m.Volumes[0].Name)
	require.NoError(t, err)
	dir := t.TempDir()
	into, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer into.Close()
	done, err := tree.Extract(t.Context(), ".", into, &ExtractOptions{Match: func(name string) bool {
		return name == "home" || name == "var" || name == "long" || name == "etc/hostname"
	}})
	require.NoError(t, err)
	require.Empty(t, done.Skipped)
	require.EqualValues(t, 3, done.Links)
	require.EqualValues(t, 306, done.Files)

	for _, top := range []string{"home", "var", "long", "etc/hostname"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(source, top), func(name string, _ fs.DirEntry, err error) error {
			require.NoError(t, err)
			rel, _ := filepath.Rel(source, name)
			same(t, name, filepath.Join(dir, rel))
			return nil
		}))
	}
	require.NoFileExists(t, filepath.Join(dir, "etc/empty"))
	a, err := os.Stat(filepath.Join(dir, "var/big"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(dir, "var/big2"))
	require.NoError(t, err)
	require.True(t, os.SameFile(a, b), "two names of one file stay that")
	require.Empty(t, parts(t, dir))

	again, err := tree.Extract(t.Context(), "etc", into, nil)
	require.NoError(t, err)
	require.Len(t, again.Skipped, 1, "what is there is not replaced")
	require.Equal(t, "etc/hostname", again.Skipped[0].Path)
	again, err = tree.Extract(t.Context(), "etc", into, &ExtractOptions{Overwrite: true})
	require.NoError(t, err)
	require.Empty(t, again.Skipped)
}

// same compares a restored file with the original.
func same(t *testing.T, want, got string) {
	t.Helper()
	a, err := os.Lstat(want)
	require.NoError(t, err)
	b, err := os.Lstat(got)
	require.NoError(t, err)
	require.Equal(t, a.Mode(), b.Mode(), got)
	switch {
	case a.Mode().IsRegular():
		x, err := os.ReadFile(want)
		require.NoError(t, err)
		y, err := os.ReadFile(got)
		require.NoError(t, err)
		require.Equal(t, x, y, got)
		require.WithinDuration(t, a.ModTime(), b.ModTime(), time.Second, got) // mke2fs -d writes whole seconds
	case a.Mode()&fs.ModeSymlink != 0:
		x, err := os.Readlink(want)
		require.NoError(t, err)
		y, err := os.Readlink(got)
		require.NoError(t, err)
		require.Equal(t, x, y)
	}
}

func parts(t *testing.T, dir string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".part") {
			found = append(found, name)
		}
		return err
	}))
	return found
}

// A cancelled extraction ends with its context's error and leaves no part of a file.
func TestExtractCancelled(t *testing.T) {
	_, m := twoDisks(t)
	tree, err := m.Tree(m.Volumes[0].Name)
	require.NoError(t, err)
	dir := t.TempDir()
	into, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer into.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = tree.Extract(ctx, ".", into, &ExtractOptions{Done: func(string, int64) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, parts(t, dir))
}

func TestReadSeek(t *testing.T) {
	source, m := twoDisks(t)
	tree, err := m.Tree("")
	require.NoError(t, err)
	want, err := os.ReadFile(filepath.Join(source, "var/big"))
	require.NoError(t, err)
	f, err := tree.Open("var/big")
	require.NoError(t, err)
	defer f.Close()
	_, err = f.(io.Seeker).Seek(-1000, io.SeekEnd)
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, want[len(want)-1000:], got)
}
