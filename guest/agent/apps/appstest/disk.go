//go:build linux

package appstest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The numbers of FIFREEZE and FITHAW on the machines that tests run on.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// Dir makes a folder with a short path that every account may pass through: sockets have short names.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hk")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

// Scratch makes a folder for disks' images: in memory where there is much of it, since a server syncs all the time.
func Scratch(t testing.TB) string {
	t.Helper()
	const memory, much = "/dev/shm", 4 << 30
	var st unix.Statfs_t
	if unix.Statfs(memory, &st) != nil || int64(st.Bavail)*st.Bsize < much {
		return Dir(t)
	}
	dir, err := os.MkdirTemp(memory, "hk")
	if err != nil {
		return Dir(t)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Run runs a program and fails the test where it fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// Need skips the test where a program is missing.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// NeedRoot skips the test where it does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("root is needed, to run a server as its own account and to mount disks")
	}
}

// Disk is an ext4 of its own.
type Disk struct {
	Mount string
	image string

	mu     sync.Mutex
	frozen *os.File
	guard  *time.Timer
}

// NewDisk makes a disk and mounts it.
func NewDisk(t testing.TB, megabytes int64) *Disk {
	t.Helper()
	NeedRoot(t)
	Need(t, "mkfs.ext4", "losetup", "mount", "umount")
	image := filepath.Join(Scratch(t), "disk")
	f, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(megabytes<<20))
	require.NoError(t, f.Close())
	Run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", image)
	return Mount(t, image)
}

// Mount mounts a disk's image.
func Mount(t testing.TB, image string) *Disk {
	t.Helper()
	d := &Disk{Mount: Dir(t), image: image}
	out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, d.Mount).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device can be mounted here: %s", out)
	}
	t.Cleanup(func() { require.NoError(t, d.close()) })
	require.NoError(t, os.Chmod(d.Mount, 0o711))
	return d
}

// close thaws and unmounts, and tries for a while: whoever stood in it may still be ending.
func (d *Disk) close() (err error) {
	d.Thaw()
	for range 50 {
		if err = unix.Unmount(d.Mount, 0); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("unmount: %w", err)
}

// Freeze freezes the disk, for 10 s at most.
func (d *Disk) Freeze(t testing.TB) {
	t.Helper()
	f, err := os.Open(d.Mount)
	require.NoError(t, err)
	d.mu.Lock()
	d.frozen = f
	d.mu.Unlock()
	d.guard = time.AfterFunc(10*time.Second, d.Thaw)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiFreeze, 0)
	require.Zero(t, errno)
}

// Thaw thaws it, where it is frozen.
func (d *Disk) Thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen == nil {
		return
	}
	d.guard.Stop()
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, d.frozen.Fd(), fiThaw, 0)
	_ = d.frozen.Close()
	d.frozen = nil
}

// Copy copies the disk as it is, and returns the image. A copy of a disk that is not frozen is not of one moment.
func (d *Disk) Copy(t testing.TB) string {
	t.Helper()
	from, err := os.Open(d.image)
	require.NoError(t, err)
	defer from.Close()
	image := filepath.Join(Scratch(t), "copy")
	to, err := os.Create(image)
	require.NoError(t, err)
	defer to.Close()
	info, err := from.Stat()
	require.NoError(t, err)
	require.NoError(t, to.Truncate(info.Size()))
	for off := int64(0); ; {
		data, err := unix.Seek(int(from.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return image
		}
		require.NoError(t, err)
		hole, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		require.NoError(t, err)
		_, err = io.Copy(io.NewOffsetWriter(to, data), io.NewSectionReader(from, data, hole-data))
		require.NoError(t, err)
		off = hole
	}
}

// Write writes a file.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, content, 0o600))
}
