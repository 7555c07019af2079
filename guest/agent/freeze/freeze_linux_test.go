package freeze

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent/wire"
)

// R142: what is frozen does not change, and does again.
func TestFreeze(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			point := mounted(t, kind)
			w := write(t, point)
			z := freezeThese(t, 8*time.Second, point)
			require.Len(t, z.Answer().Frozen, 1)
			require.Equal(t, kind, z.Answer().Frozen[0].Type)
			time.Sleep(300 * time.Millisecond)
			thawed, held, err := z.Thaw(soon(t))
			require.NoError(t, err)
			require.True(t, held)
			require.Equal(t, []string{point}, thawed)
			again, held, err := z.Thaw(soon(t))
			require.NoError(t, err)
			require.True(t, held, "a second call tells the first one's result")
			require.Equal(t, thawed, again)
			stood := w.longest(t, point, 5*time.Second)
			require.Greater(t, stood, 250*time.Millisecond)
			t.Logf("frozen in %d µs, a writer stood still for %v", z.Answer().Frozen[0].Micros, stood)
			require.False(t, thawNow(point))
		})
	}
}

// A hold that is over is thawed by the watchdog, and whoever thaws then is told. So is a freeze whose process stands still.
func TestHoldIsOver(t *testing.T) {
	point := mounted(t, "ext4")
	w := write(t, point)
	z := freezeThese(t, 500*time.Millisecond, point)
	time.Sleep(900 * time.Millisecond)
	stood := w.longest(t, point, 5*time.Second)
	require.Less(t, stood, 2*time.Second)
	thawed, held, err := z.Thaw(soon(t))
	require.NoError(t, err)
	require.False(t, held)
	require.Empty(t, thawed)
	t.Logf("a hold of 500 ms: a writer stood still for %v", stood)
}

// Somebody else thawed, and somebody froze anew: it was not held, whatever the kernel answers.
func TestThawedByOthers(t *testing.T) {
	point := mounted(t, "ext4")
	z := freezeThese(t, 8*time.Second, point)
	require.True(t, thawNow(point))
	_, held, err := z.Thaw(soon(t))
	require.NoError(t, err)
	require.False(t, held)
}

// Without its watchdog nothing stays frozen.
func TestWatchdogDies(t *testing.T) {
	point := mounted(t, "ext4")
	w := write(t, point)
	z := freezeThese(t, 60*time.Second, point)
	require.NoError(t, z.dog.cmd.Process.Kill())
	require.Less(t, w.longest(t, point, 5*time.Second), 3*time.Second)
	_, held, err := z.Thaw(soon(t))
	require.NoError(t, err)
	require.False(t, held)
}

// The process that froze is killed, or stopped.
func TestFreezerDies(t *testing.T) {
	for _, c := range []struct {
		name  string
		sign  syscall.Signal
		limit time.Duration
	}{{"killed", syscall.SIGKILL, victimHold / 2}, {"stopped", syscall.SIGSTOP, 2 * victimHold}} {
		t.Run(c.name, func(t *testing.T) {
			point := mounted(t, "ext4")
			w := write(t, point)
			cmd := exec.Command("/proc/self/exe", "victim", point)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			defer cmd.Wait()
			defer cmd.Process.Kill()
			said, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "<nil>\n", said)
			signalled := time.Now()
			require.NoError(t, cmd.Process.Signal(c.sign))
			stood := w.longest(t, point, 15*time.Second)
			require.Less(t, stood, c.limit)
			t.Logf("a writer went on %v after the signal", time.Since(signalled))
		})
	}
}

// A file system in a file on another one: the inner one freezes first, wherever they are mounted.
func TestLoopOnLoop(t *testing.T) {
	outer := mountedOn(t, "xfs", t.TempDir())
	inner := mountedOn(t, "ext4", outer)
	for _, names := range [][]string{{outer, inner}, {inner, outer}} {
		w := write(t, inner)
		z := freezeThese(t, 8*time.Second, names...)
		require.Equal(t, inner, z.Answer().Frozen[0].Mount)
		_, held, err := z.Thaw(soon(t))
		require.NoError(t, err)
		require.True(t, held)
		w.longest(t, inner, 5*time.Second)
	}
}

// One that somebody else froze: ours is thawed again, theirs stays.
func TestFrozenByOthers(t *testing.T) {
	mine, theirs := mounted(t, "ext4"), mounted(t, "ext4")
	first := freezeThese(t, 8*time.Second, theirs)
	_, err := freezeNow(soon(t), New(nil), wire.FreezeArgs{Mounts: []string{mine, theirs}, HoldMillis: 8000})
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, wire.CodeState, f.Code)
	require.Contains(t, f.Message, theirs)
	require.False(t, thawNow(mine), "ours is not frozen any more")
	_, held, err := first.Thaw(soon(t))
	require.NoError(t, err)
	require.True(t, held, "theirs was left alone")
}

func TestFreezeRefuses(t *testing.T) {
	point := mounted(t, "ext4")
	inside := filepath.Join(point, "folder")
	require.NoError(t, os.Mkdir(inside, 0o700))
	shm := filepath.Join(t.TempDir(), "memory")
	require.NoError(t, os.Mkdir(shm, 0o700))
	require.NoError(t, unix.Mount("none", shm, "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(shm, 0) })
	for mount, code := range map[string]wire.Code{inside: wire.CodeMissing, "/no/such": wire.CodeMissing, shm: wire.CodeInvalid} {
		_, err := freezeNow(soon(t), New(nil), wire.FreezeArgs{Mounts: []string{point, mount}, HoldMillis: 8000})
		var f *wire.Failure
		require.ErrorAs(t, err, &f, mount)
		require.Equal(t, code, f.Code)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := freezeNow(cancelled, New(nil), wire.FreezeArgs{Mounts: []string{point}, HoldMillis: 8000})
	require.Error(t, err)
	_, err = freezeNow(soon(t), New(&Options{Watchdog: []string{"/bin/false"}}), wire.FreezeArgs{Mounts: []string{point}, HoldMillis: 8000})
	require.ErrorContains(t, err, "watchdog", "without one nothing is frozen")
	_, err = freezeNow(soon(t), New(&Options{Watchdog: []string{"/bin/echo", "hello"}}), wire.FreezeArgs{Mounts: []string{point}, HoldMillis: 8000})
	require.ErrorContains(t, err, "hello")
	require.False(t, thawNow(point))
}

// Mounted twice is frozen once; what is hidden below another mount is found where it can be seen.
func TestMountedTwice(t *testing.T) {
	point := mounted(t, "ext4")
	second := filepath.Join(t.TempDir(), "second")
	require.NoError(t, os.Mkdir(second, 0o700))
	require.NoError(t, unix.Mount(point, second, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(second, 0) })
	cover := mountedOver(t, point)
	z := freezeThese(t, 8*time.Second, second)
	require.Equal(t, second, z.Answer().Frozen[0].Mount)
	require.Len(t, z.Answer().Frozen, 1)
	z.Thaw(soon(t))
	cover()
	volumes, err := New(nil).Volumes(soon(t))
	require.NoError(t, err)
	found := slices.IndexFunc(volumes, func(v wire.Volume) bool { return v.Mount == point || v.Mount == second })
	require.GreaterOrEqual(t, found, 0)
	require.Equal(t, "ext4", volumes[found].Type)
	require.Positive(t, volumes[found].Size)
	require.Empty(t, volumes[found].Skip)
}

// mountedOver hides a mount below another until it is told not to.
func mountedOver(t *testing.T, point string) (uncover func()) {
	t.Helper()
	require.NoError(t, unix.Mount("none", point, "tmpfs", 0, ""))
	uncover = func() { unix.Unmount(point, 0) }
	t.Cleanup(uncover)
	return uncover
}

func TestWatchdogUsage(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "--files 1", "--files 0 --hold 1s", "--files 1 --hold 0s", "--files 1 --hold 1s extra",
		"--files x --hold 1s", "--files 1 --hold x", "--files 513 --hold 1s", "--other 1 --hold 1s"} {
		var args []string
		if line != "" {
			args = strings.Split(line, " ")
		}
		require.Error(t, Watchdog(args, strings.NewReader(""), os.Stderr), line)
	}
}
