package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent/freeze"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index/list"
)

// onDisk is a folder on one of this machine's own disks.
func onDisk(t *testing.T) string {
	dir := t.TempDir()
	s := &session{rules: &rules{}}
	all, err := s.volumes()
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dir, &st))
	for _, v := range all {
		if v.device == 0 || v.device == uint64(st.Dev) {
			return dir
		}
	}
	t.Skip("the folder for temporary files is on no disk of this machine: set TMPDIR")
	return ""
}

func lists(t *testing.T, args wire.IndexArgs) (wire.IndexAnswer, map[string]list.Entry) {
	t.Helper()
	var out bytes.Buffer
	a, err := New().Index(t.Context(), args, &out)
	require.NoError(t, err)
	require.EqualValues(t, out.Len(), a.Bytes)
	_, entries := read(t, out.Bytes())
	require.EqualValues(t, len(entries), a.Entries)
	return a, entries
}

// Names, sizes, times, owners, whatever the names' bytes (R144).
func TestIndex(t *testing.T) {
	dir := onDisk(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.MkdirAll(at("a/b/c"), 0o750))
	require.NoError(t, os.WriteFile(at("a/file"), make([]byte, 12_345), 0o640))
	require.NoError(t, os.WriteFile(at("a.b"), nil, 0o600))
	require.NoError(t, os.WriteFile(at("a/\xff\n"), nil, 0o600))
	require.NoError(t, os.Symlink("/etc", at("a/link")))
	require.NoError(t, unix.Mkfifo(at("a/pipe"), 0o600))
	when := time.Unix(1_600_000_000, 0)
	require.NoError(t, os.Chtimes(at("a/file"), when, when))
	before := time.Now().Unix()

	_, got := lists(t, wire.IndexArgs{Include: []string{dir}})
	file := got[at("a/file")]
	require.EqualValues(t, 12_345, file.Size)
	require.EqualValues(t, 1_600_000_000, file.ModUnix)
	require.EqualValues(t, 0o640, file.Mode)
	require.Equal(t, fmt.Sprint(os.Getuid()), file.Owner)
	require.Equal(t, fmt.Sprint(os.Getgid()), file.Group)
	if file.CreatedUnix != 0 {
		require.InDelta(t, before, file.CreatedUnix, 60)
	}
	require.Equal(t, list.Dir, got[at("a/b/c")].Type)
	require.Equal(t, list.File, got[at("a.b")].Type)
	require.Contains(t, got, at("a/\xff\n"))
	require.Equal(t, "/etc", got[at("a/link")].Target)
	require.Equal(t, list.Link, got[at("a/link")].Type)
	require.NotContains(t, got, at("a/link/passwd"))
	require.Equal(t, list.Special, got[at("a/pipe")].Type)
	for path := range got {
		require.True(t, below(path, dir) || below(dir, path), path)
	}

	_, got = lists(t, wire.IndexArgs{Include: []string{dir}, Exclude: []string{at("a/b"), "*.b"}})
	require.NotContains(t, got, at("a/b"))
	require.NotContains(t, got, at("a/b/c"))
	require.NotContains(t, got, at("a.b"))
	require.Contains(t, got, at("a/file"))
}

// What cannot be listed says why.
func TestUnlisted(t *testing.T) {
	dir := onDisk(t)
	deep := dir
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for range maxDepth + 10 {
		require.NoError(t, unix.Mkdirat(fd, "d", 0o700))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		unix.Close(fd)
		fd, deep = next, deep+"/d"
	}
	unix.Close(fd)
	a, got := lists(t, wire.IndexArgs{Include: []string{dir}})
	require.Less(t, len(got), maxDepth+5)
	require.Contains(t, strings.Join(a.Skipped, "\n"), "folders deep")
	var noted int
	for _, e := range got {
		if e.Note == errDeep.Error() {
			noted++
		}
	}
	require.Equal(t, 1, noted)

	if os.Geteuid() == 0 {
		return // may read everything
	}
	shut := filepath.Join(dir, "shut")
	require.NoError(t, os.Mkdir(shut, 0))
	_, got = lists(t, wire.IndexArgs{Include: []string{dir}})
	require.Contains(t, got[shut].Note, "permission denied")
}

// Where the room for names is taken, folders are read more often, and all is listed.
func TestNoRoom(t *testing.T) {
	dir := onDisk(t)
	const n = 1500
	for i := range n {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d%s", i, strings.Repeat("n", 100))), nil, 0o600))
	}
	r, err := newRules(wire.IndexArgs{Include: []string{dir}})
	require.NoError(t, err)
	var out bytes.Buffer
	s := &session{ctx: t.Context(), rules: r, out: list.NewWriter(&out), held: maxNamed}
	require.NoError(t, s.run())
	require.Equal(t, maxNamed, s.held)
	_, got := read(t, out.Bytes())
	files := 0
	for path := range got {
		if filepath.Dir(path) == dir {
			files++
		}
	}
	require.Equal(t, n, files)
}

// A folder that is swapped for a link while it is visited leads nowhere.
func TestSwapped(t *testing.T) {
	dir, outside := onDisk(t), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	folder, link, spare := filepath.Join(dir, "x"), filepath.Join(dir, "y"), filepath.Join(dir, "z")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.Symlink(outside, link))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	}()
	defer func() { stop.Store(true); <-done }()
	for range 50 {
		_, got := lists(t, wire.IndexArgs{Include: []string{dir}, Exclude: []string{spare}})
		for path := range got {
			require.NotContains(t, path, "secret")
		}
	}
}

// A mount is a volume of its own, listed once however often it is bound; what lies below a mount is another volume's.
func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs (e2fsprogs)")
	}
	dir := onDisk(t)
	disk, point, again := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt"), filepath.Join(dir, "again")
	out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-L", "a label", disk, "8M").CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.Mkdir(point, 0o700))
	require.NoError(t, os.Mkdir(again, 0o700))
	if out, err := exec.Command("mount", "-o", "loop", disk, point).CombinedOutput(); err != nil {
		t.Skipf("no loop device: %s", out)
	}
	unmount := func(p string) { require.NoError(t, exec.Command("umount", p).Run()) }
	t.Cleanup(func() { unmount(point) })
	require.NoError(t, os.WriteFile(filepath.Join(point, "inside"), nil, 0o600))
	require.NoError(t, unix.Mount(point, again, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unmount(again) })

	var list bytes.Buffer
	_, err = New().Index(t.Context(), wire.IndexArgs{Include: []string{dir}}, &list)
	require.NoError(t, err)
	volumes, got := read(t, list.Bytes())
	require.Contains(t, got, filepath.Join(point, "inside"))
	require.NotContains(t, got, filepath.Join(again, "inside"), "listed once")
	require.Equal(t, errMount.Error(), got[again].Note)
	require.Equal(t, point, volumes[len(volumes)-1].Mount)
	require.Equal(t, "ext4", volumes[len(volumes)-1].Kind)
}

func TestOnce(t *testing.T) {
	const table = `20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 8:1 /var/lib /srv rw - ext4 /dev/sda1 rw
22 20 0:5 / /proc rw - proc proc rw
23 20 0:9 / /mnt/far rw - nfs4 host:/x rw
24 20 8:2 /sub /home rw - xfs /dev/sda2 rw
25 20 8:2 /sub/x /opt rw - xfs /dev/sda2 rw
26 20 8:2 /other /other rw - xfs /dev/sda2 rw
27 20 0:40 /@ /b rw - btrfs /dev/sdb rw
28 20 0:40 /@/home /b/home rw - btrfs /dev/sdb rw
29 20 0:40 /@ /b2 rw - btrfs /dev/sdb rw
30 20 0:50 / /run rw - tmpfs tmpfs rw
31 20 0:51 / /docker rw - overlay overlay rw
`
	mounts, err := freeze.Mounts(strings.NewReader(table))
	require.NoError(t, err)
	var points []string
	for _, m := range once(mounts) {
		points = append(points, m.Point)
	}
	require.Equal(t, []string{"/", "/b", "/b/home", "/home", "/other"}, points)
	require.Equal(t, "a b", udevName(`a\x20b`))
}

// A walk ends at once with its context, and with its stream.
func TestEnds(t *testing.T) {
	dir := onDisk(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New().Index(ctx, wire.IndexArgs{Include: []string{dir}}, &bytes.Buffer{})
	require.ErrorIs(t, err, context.Canceled)
	gone := errors.New("the link is gone")
	_, err = New().Index(t.Context(), wire.IndexArgs{Include: []string{dir}}, full{gone})
	require.ErrorIs(t, err, gone)
}

type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }
