package fsystest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadline bounds every tool that a test runs.
const deadline = 2 * time.Minute

// Mounted is an image that the real driver has mounted.
type Mounted struct {
	Dir string // the root directory; good for child processes too

	fd     int    // the mount; closing it ends it
	loop   string // the device that it is on, in /sys
	seq    string // what the kernel counts up when another file is put behind that
	daemon *exec.Cmd
	ended  chan error
	gone   bool
}

// Mount mounts an image file read-write: "ext4" (which takes ext2 and ext3 too) and "xfs" by the kernel over a loop device,
// "ntfs" by ntfs-3g. Options are those of mount(8), "ro" or "data=journal". It skips the test, with the reason, where that
// cannot be done here: not root, no loop device, no driver. It is unmounted at the end of the test at the latest.
func Mount(t testing.TB, kind, img string, opts ...string) *Mounted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	m, err := mount(t, kind, img, opts)
	if err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			t.Errorf("unmount %s: %v", kind, err)
		}
	})
	return m
}

// TryMount is Mount for an image that the driver may refuse: then it returns the driver's error.
func TryMount(t testing.TB, kind, img string, opts ...string) (*Mounted, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	m, err := mount(t, kind, img, opts)
	if err == nil {
		t.Cleanup(func() { _ = m.Unmount() })
	}
	return m, err
}

func mount(t testing.TB, kind, img string, opts []string) (*Mounted, error) {
	t.Helper()
	if kind == "ntfs" {
		return mountNTFS(t, img, opts)
	}
	if kinds, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(kinds), "\t"+kind+"\n") {
		t.Skipf("this kernel has no driver for %s", kind)
	}
	loop, err := attach(img)
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	defer loop.Close() // the mount holds it from here on, and it detaches itself when nobody does
	fd, err := detachedMount(kind, loop.Name(), opts)
	if err != nil {
		return nil, err
	}
	m := &Mounted{Dir: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), fd: fd, loop: "/sys/block/" + filepath.Base(loop.Name())}
	m.seq = m.sequence()
	return m, nil
}

// attach gives a file to a free loop device that detaches itself when it is closed for the last time.
func attach(img string) (*os.File, error) {
	back, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // others may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// detachedMount mounts a device at no place: only the descriptor leads to it.
func detachedMount(kind, device string, opts []string) (int, error) {
	conf, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(conf)
	if err := configure(conf, device, opts); err != nil {
		return -1, fmt.Errorf("%w: %s", err, complaints(conf))
	}
	return unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, 0)
}

func configure(conf int, device string, opts []string) error {
	if err := unix.FsconfigSetString(conf, "source", device); err != nil {
		return err
	}
	for _, o := range opts {
		var err error
		if key, value, ok := strings.Cut(o, "="); ok {
			err = unix.FsconfigSetString(conf, key, value)
		} else {
			err = unix.FsconfigSetFlag(conf, key)
		}
		if err != nil {
			return fmt.Errorf("option %q: %w", o, err)
		}
	}
	return unix.FsconfigCreate(conf)
}

// complaints are what the driver wrote into the configuration's log.
func complaints(conf int) string {
	var all []string
	for range 16 {
		buf := make([]byte, 1024)
		n, err := unix.Read(conf, buf)
		if err != nil || n <= 0 {
			break
		}
		all = append(all, strings.TrimSpace(string(buf[:n])))
	}
	return strings.Join(all, "; ")
}

// mountNTFS runs ntfs-3g in the foreground; it dies with us.
func mountNTFS(t testing.TB, img string, opts []string) (*Mounted, error) {
	t.Helper()
	program, err := exec.LookPath("ntfs-3g")
	if err != nil {
		t.Skip("ntfs-3g is not installed")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	m := &Mounted{Dir: filepath.Join(t.TempDir(), "mnt"), fd: -1, ended: make(chan error, 1)}
	if err := os.Mkdir(m.Dir, 0o700); err != nil {
		return nil, err
	}
	before, err := os.Stat(m.Dir)
	if err != nil {
		return nil, err
	}
	m.daemon = exec.Command(program, "-o", strings.Join(append([]string{"no_detach", "no_def_opts", "permissions"}, opts...), ","), img, m.Dir)
	m.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var said strings.Builder
	m.daemon.Stderr = &said
	if err := m.daemon.Start(); err != nil {
		return nil, err
	}
	go func() { m.ended <- m.daemon.Wait() }()
	for range 1000 {
		if fi, err := os.Stat(m.Dir); err == nil && !os.SameFile(fi, before) {
			return m, nil
		}
		select {
		case err := <-m.ended:
			return nil, fmt.Errorf("ntfs-3g: %w: %s", err, said.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	_ = m.daemon.Process.Kill()
	return nil, errors.New("ntfs-3g did not mount within ten seconds")
}

// Sync writes all that the driver holds to the image, as sync(1) does for one file system: data and log, not always the
// places that the log is about.
func (m *Mounted) Sync() error {
	f, err := os.Open(m.Dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// Freeze brings the file system to rest on the image; Thaw ends that.
func (m *Mounted) Freeze() error { return m.ioctl(fiFreeze) }

// Thaw ends a Freeze.
func (m *Mounted) Thaw() error { return m.ioctl(fiThaw) }

// The kernel's include/uapi/linux/fs.h: _IOWR('X', 119, int) and 120.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (m *Mounted) ioctl(req uint) error {
	f, err := os.Open(m.Dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlSetInt(int(f.Fd()), req, 0), f.Close())
}

// busyFor is how long an unmount waits for others to let go: a program that indexes what it sees mounted, or a child
// process that was forked with our files and has not come to its exec yet.
const busyFor = 5 * time.Second

// unmountNTFS unmounts, and tries again for some time where somebody still looks at the place.
func (m *Mounted) unmountNTFS() error {
	for end := time.Now().Add(busyFor); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(m.Dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// Unmount ends the mount. Again it does nothing. All files in it must be closed; where that comes a little late it waits.
func (m *Mounted) Unmount() error {
	if m.gone {
		return nil
	}
	m.gone = true
	if m.daemon == nil {
		return errors.Join(unix.Close(m.fd), m.detached())
	}
	if err := m.unmountNTFS(); err != nil {
		return errors.Join(err, m.daemon.Process.Signal(syscall.SIGTERM), <-m.ended)
	}
	select {
	case err := <-m.ended:
		return err
	case <-time.After(deadline):
		return errors.Join(errors.New("ntfs-3g does not end"), m.daemon.Process.Kill())
	}
}

// sequence is empty on kernels before 5.15, which do not count.
func (m *Mounted) sequence() string {
	seq, _ := os.ReadFile(m.loop + "/diskseq")
	return string(seq)
}

// detached waits until the driver has let the image go. The last close unmounts, and that need not be ours: a process that
// another test is just starting has all descriptors until it runs its program.
func (m *Mounted) detached() error {
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if m.sequence() != m.seq {
			return nil
		}
		if _, err := os.Stat(m.loop + "/loop/backing_file"); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("%s still has the image", m.loop)
}

// Clone makes a copy of a file in one moment, as a snapshot of a disk is made; both must lie in one file system that can
// (XFS with reflink). It skips the test where that is not so.
func Clone(t testing.TB, to, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		t.Skipf("files cannot be cloned here: %v", err)
	}
}

// Tool runs a program of the system and returns what it printed on both outputs. Where it is not installed the test is
// skipped. An exit status other than those in ok (0 where none is given) fails it.
func Tool(t testing.TB, ok []int, name string, args ...string) string {
	t.Helper()
	path, err := lookTool(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	code := cmd.ProcessState.ExitCode()
	if err == nil && ok == nil {
		return string(out)
	}
	for _, c := range ok {
		if c == code {
			return string(out)
		}
	}
	t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	return ""
}

// lookTool also looks where administrators' programs lie.
func lookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}
