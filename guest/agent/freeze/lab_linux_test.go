package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// TestMain is also the watchdog, and the component that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "watchdog" {
		if err := Watchdog(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "victim" {
		victim(os.Args[2:])
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for the processes that are started here
	goleak.VerifyTestMain(m)
}

const victimHold = 1500 * time.Millisecond

// victim freezes, says so, and waits to be killed.
func victim(mounts []string) {
	_, err := freezeNow(context.Background(), New(nil), wire.FreezeArgs{Mounts: mounts, HoldMillis: victimHold.Milliseconds()})
	fmt.Println(err)
	select {}
}

// mounted is a file system of one kind in a file, mounted for one test. Whatever the test does, it is thawed and unmounted.
func mounted(t *testing.T, kind string) string {
	t.Helper()
	return mountedOn(t, kind, t.TempDir())
}

// mountedOn puts the file into a folder, which may lie on another such file system.
func mountedOn(t *testing.T, kind, dir string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("needs mkfs.%s", kind)
	}
	file, point := filepath.Join(dir, kind+".img"), filepath.Join(t.TempDir(), kind)
	require.NoError(t, os.Mkdir(point, 0o700))
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(map[string]int64{"ext4": 16 << 20, "xfs": 300 << 20, "btrfs": 128 << 20}[kind]))
	f.Close()
	run(t, mkfs, "-q", file)
	if out, err := exec.CommandContext(soon(t), "mount", "-o", "loop", file, point).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices: %s", out)
	}
	t.Cleanup(func() {
		thawNow(point)
		require.Eventually(t, func() bool { // a watchdog that was just told may still hold it
			return errors.Is(unix.Unmount(point, 0), unix.EINVAL)
		}, 10*time.Second, 20*time.Millisecond)
	})
	return point
}

// thawNow thaws, and says whether there was need to.
func thawNow(point string) bool {
	fd, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return ioctlThaw(fd) == nil
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(soon(t), name, args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// writer writes into a file system without pause and tells how long it stood still at most.
type writer struct {
	stop chan struct{}
	done chan time.Duration
}

func write(t *testing.T, point string) *writer {
	t.Helper()
	f, err := os.Create(filepath.Join(point, "written"))
	require.NoError(t, err)
	w := &writer{make(chan struct{}), make(chan time.Duration, 1)}
	go func() {
		defer f.Close()
		longest := time.Duration(0)
		for {
			start := time.Now()
			f.WriteAt([]byte("x"), 0)
			longest = max(longest, time.Since(start))
			select {
			case <-w.stop:
				w.done <- longest
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return w
}

// longest ends it. A file system that is frozen for good is thawed after so long, and the test fails.
func (w *writer) longest(t *testing.T, point string, limit time.Duration) time.Duration {
	t.Helper()
	close(w.stop)
	select {
	case d := <-w.done:
		return d
	case <-time.After(limit):
		thawNow(point)
		<-w.done
		t.Fatalf("%s was still frozen after %v", point, limit)
		return 0
	}
}

func freezeThese(t *testing.T, hold time.Duration, points ...string) *frozen {
	t.Helper()
	f, err := freezeNow(soon(t), New(nil), wire.FreezeArgs{Mounts: points, HoldMillis: hold.Milliseconds()})
	require.NoError(t, err)
	return f.(*frozen)
}

// freezeNow gets ready and freezes.
func freezeNow(ctx context.Context, f *Freezer, args wire.FreezeArgs) (agent.Frozen, error) {
	r, err := f.Ready(ctx, args)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Freeze(ctx)
}
