package diskfile_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// TestRefusesWhatIsNoDisk: and does not hang on it.
func TestRefusesWhatIsNoDisk(t *testing.T) {
	dir := t.TempDir()
	fifo, sock, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "sock"), filepath.Join(dir, "link")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	l, err := net.Listen("unix", sock)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.Symlink(sparse(t), link))
	for _, path := range []string{dir, fifo, sock, "/dev/null"} {
		_, err := diskfile.Open(path, nil)
		require.ErrorIs(t, err, diskfile.ErrNotDisk, path)
		_, err = diskfile.OpenTarget(path, nil)
		require.ErrorIs(t, err, diskfile.ErrNotDisk, path)
		_, err = diskfile.Create(path, 1, &diskfile.CreateOptions{Overwrite: true})
		require.ErrorIs(t, err, diskfile.ErrNotDisk, path)
		_, _, err = diskfile.Locked(path)
		require.ErrorIs(t, err, diskfile.ErrNotDisk, path)
	}
	_, err = diskfile.OpenTarget(link, nil)
	require.ErrorIs(t, err, diskfile.ErrNotDisk)
	img, err := diskfile.Open(link, nil) // reading is where the user points
	require.NoError(t, err)
	require.NoError(t, img.Close())
}

// TestNoSpace: a file system that is full is told apart from other failures, and nothing is left behind.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	target, err := diskfile.Create(filepath.Join(dir, "disk.raw"), 1<<20, nil)
	require.NoError(t, err)
	n, err := target.WriteAt(t.Context(), bytes.Repeat([]byte("x"), 1<<20), 0)
	require.ErrorIs(t, err, diskfile.ErrNoSpace)
	var where *diskfile.Error
	require.ErrorAs(t, err, &where)
	require.Equal(t, int64(n), where.Off)
	require.NoError(t, target.Close())
	requireFolder(t, dir)
}

// TestDevice reads and writes a block device.
func TestDevice(t *testing.T) {
	needs(t, "losetup")
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("data"), 1<<20), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", device).Run()

	target, err := diskfile.OpenTarget(device, nil)
	require.NoError(t, err)
	require.Equal(t, int64(4<<20), target.Size())
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 1 << 20, Len: 1<<20 + 100, Kind: pipe.Zero}))
	_, err = target.WriteAt(t.Context(), []byte("new"), 10)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))

	want := bytes.Repeat([]byte("data"), 1<<20)
	clear(want[1<<20 : 2<<20+100])
	copy(want[10:], "new")
	img, err := diskfile.Open(device, nil)
	require.NoError(t, err)
	require.Equal(t, int64(4<<20), img.Size())
	got := make([]byte, 4<<20)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.Equal(t, []pipe.Extent{{Len: 4 << 20, Kind: pipe.Data}}, extents(t, img, 0, 4<<20))
	require.NoError(t, img.Close())

	busy, err := os.OpenFile(device, os.O_RDWR|os.O_EXCL, 0) // as a mount would
	require.NoError(t, err)
	defer busy.Close()
	var held *diskfile.LockedError
	_, err = diskfile.OpenTarget(device, nil)
	require.ErrorAs(t, err, &held)
}

// TestMarkGivesSpaceBack: zeros in place become holes, on file systems that have them.
func TestMarkGivesSpaceBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("data", 1<<20)), 0o600))
	target, err := diskfile.OpenTarget(path, nil)
	require.NoError(t, err)
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 1 << 20, Len: 2 << 20, Kind: pipe.Zero}))
	require.NoError(t, target.Commit(t.Context()))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	require.LessOrEqual(t, st.Blocks*512, int64(2<<20+64<<10))
}

// TestLocked asks about files that a real QEMU tool has open.
func TestLocked(t *testing.T) {
	needs(t, "qemu-io", "qemu-img")
	for _, format := range []string{"raw", "qcow2"} {
		path := filepath.Join(t.TempDir(), "disk."+format)
		out, err := exec.Command("qemu-img", "create", "-q", "-f", format, path, "1M").CombinedOutput()
		require.NoError(t, err, "%s", out)
		requireUnlocked(t, path)

		stop := holdOpen(t, format, path)
		owner, locked, err := diskfile.Locked(path)
		require.NoError(t, err)
		require.True(t, locked, format)
		require.Contains(t, owner, "qemu-io")
		_, err = diskfile.OpenTarget(path, nil)
		var held *diskfile.LockedError
		require.ErrorAs(t, err, &held)
		target, err := diskfile.OpenTarget(path, &diskfile.TargetOptions{Force: true})
		require.NoError(t, err)
		require.NoError(t, target.Close())
		stop()

		stop = holdOpen(t, format, "-r", path) // somebody who only reads
		requireUnlocked(t, path)
		stop()
		requireUnlocked(t, path)
	}
}

func requireUnlocked(t *testing.T, path string) {
	t.Helper()
	owner, locked, err := diskfile.Locked(path)
	require.NoError(t, err)
	require.False(t, locked, owner)
}

// holdOpen starts qemu-io on a file and waits until it has it open.
func holdOpen(t *testing.T, format string, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	cmd := exec.CommandContext(ctx, "qemu-io", append([]string{"-f", format}, args...)...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = fmt.Fprintln(in, "length")
	require.NoError(t, err)
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "1 MiB") {
	}
	require.NoError(t, lines.Err())
	return func() {
		defer cancel()
		require.NoError(t, in.Close())
		for lines.Scan() {
		}
		require.NoError(t, cmd.Wait())
	}
}

// TestOpenTargetLocksOut: while a disk is restored in place, QEMU does not start on it.
func TestOpenTargetLocksOut(t *testing.T) {
	needs(t, "qemu-io")
	path := sparse(t)
	target, err := diskfile.OpenTarget(path, nil)
	require.NoError(t, err)
	for _, args := range [][]string{{"-c", "write 0 512"}, {"-r", "-c", "read 0 512"}} {
		out, err := exec.Command("qemu-io", append(append([]string{"-f", "raw"}, args...), path)...).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "lock", "%s", out)
	}
	_, err = diskfile.OpenTarget(path, nil)
	var held *diskfile.LockedError
	require.ErrorAs(t, err, &held)
	require.NoError(t, target.Close())
	out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestUnlocksAtOnce: QEMU can open a disk as soon as we have committed it, also while we start other processes, which
// have our open files for a moment.
func TestUnlocksAtOnce(t *testing.T) {
	path := sparse(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("/bin/true").Run()
				}
			}
		})
	}
	for range 300 {
		target, err := diskfile.OpenTarget(path, nil)
		require.NoError(t, err)
		require.NoError(t, target.Commit(t.Context()))
		requireUnlocked(t, path)
	}
}

// TestPublishOrder traces the system calls of a writer: the file is synced before it gets its name, by a call that
// replaces nothing, and the folder is synced after.
func TestPublishOrder(t *testing.T) {
	if dir := os.Getenv("HIKAE_TEST_PUBLISH"); dir != "" {
		target, err := diskfile.Create(filepath.Join(dir, "disk.raw"), 1<<20, nil)
		require.NoError(t, err)
		_, err = target.WriteAt(t.Context(), []byte("data"), 0)
		require.NoError(t, err)
		require.NoError(t, target.Commit(t.Context()))
		return
	}
	needs(t, "strace")
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("strace", "-f", "-y", "-e", "trace=fsync,fdatasync,renameat2,renameat,rename,linkat", "-o", log,
		os.Args[0], "-test.run=^TestPublishOrder$")
	cmd.Env = append(os.Environ(), "HIKAE_TEST_PUBLISH="+dir)
	if out, err := cmd.CombinedOutput(); err != nil && strings.Contains(string(out), "ptrace") {
		t.Skipf("tracing is not allowed here: %s", out)
	} else {
		require.NoError(t, err, "%s", out)
	}
	calls, err := os.ReadFile(log)
	require.NoError(t, err)
	at := 0
	for _, want := range []string{"fsync(", `.tmp>) `, "renameat2(", "RENAME_NOREPLACE) = 0", "fsync(", dir + ">) "} {
		i := bytes.Index(calls[at:], []byte(want))
		require.NotEqual(t, -1, i, "%q is missing after byte %d of\n%s", want, at, calls)
		at += i + len(want)
	}
}
