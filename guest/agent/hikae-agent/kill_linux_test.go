package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

// thawLimit is the bar: nothing stays frozen longer, whoever dies.
const thawLimit = 10 * time.Second

// otherEnd is what the other end's process does in the test that kills it: it freezes a file system by the component at
// a path, says so, and waits.
func otherEnd(path, mount string) {
	c, err := guest.Connect(context.Background(), &launching{}, guest.Program{Path: path}, nil)
	if err == nil {
		_, err = c.Freeze(context.Background(), wire.FreezeArgs{Mounts: []string{mount}})
	}
	fmt.Println(err)
	time.Sleep(time.Minute)
}

// volume is a file system in a file, mounted for one test. Whatever the test does, it is thawed and unmounted.
func volume(t *testing.T, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("needs mkfs.%s", kind)
	}
	file, point := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), kind)
	require.NoError(t, os.Mkdir(point, 0o700))
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, map[string]int64{"ext4": 16 << 20, "xfs": 300 << 20}[kind]))
	out, err := exec.CommandContext(soon(t), mkfs, "-q", file).CombinedOutput()
	require.NoError(t, err, string(out))
	if out, err := exec.CommandContext(soon(t), "mount", "-o", "loop", file, point).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices: %s", out)
	}
	t.Cleanup(func() {
		thawNow(point)
		require.Eventually(t, func() bool { return errors.Is(unix.Unmount(point, 0), unix.EINVAL) }, 10*time.Second, 20*time.Millisecond)
	})
	return point
}

// thawNow thaws, and says whether there was need to.
func thawNow(point string) bool {
	f, err := os.Open(point)
	if err != nil {
		return false
	}
	defer f.Close()
	const fiThaw = 0xC0045878
	return unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) == nil
}

// goesOn has a writer stand before a frozen file system, lets die, and says how long after that the writer went on.
func goesOn(t *testing.T, point string, die func()) time.Duration {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(point, "written"), []byte("x"), 0o600) }()
	select {
	case <-done:
		t.Fatalf("%s was not frozen", point)
	case <-time.After(50 * time.Millisecond):
	}
	start := time.Now()
	died := make(chan struct{})
	go func() {
		defer close(died)
		die()
	}()
	defer func() { <-died }()
	select {
	case err := <-done:
		require.NoError(t, err)
		return time.Since(start)
	case <-time.After(2 * thawLimit):
		thawNow(point)
		<-done
		t.Fatalf("%s was still frozen after %v", point, 2*thawLimit)
		return 0
	}
}

// death is a way for a session to end in a freeze.
type death struct {
	name  string
	times int // of 100
	dies  func(t *testing.T, point string) (guest.Program, func())
}

var deaths = []death{
	{"component killed", 40, func(t *testing.T, point string) (guest.Program, func()) {
		p, ch := program(t), &launching{}
		c := connect(t, ch, p, nil)
		froze(t, c, point, 0)
		return p, func() { ch.cmd.Process.Kill() }
	}},
	{"controller killed", 25, func(t *testing.T, point string) (guest.Program, func()) {
		p := program(t)
		cmd := exec.Command("/proc/self/exe", "controller", p.Path, point)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, said, "<nil>")
		return p, func() {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}},
	{"link cut", 25, func(t *testing.T, point string) (guest.Program, func()) {
		p := program(t)
		c := connect(t, &launching{}, p, nil)
		froze(t, c, point, 0)
		return p, func() { c.Close() }
	}},
	{"component stopped", 4, func(t *testing.T, point string) (guest.Program, func()) {
		p, ch := program(t), &launching{}
		c := connect(t, ch, p, nil)
		froze(t, c, point, holdForTests())
		return p, func() {
			ch.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(holdForTests() + time.Second)
			ch.cmd.Process.Signal(syscall.SIGCONT) // so that it can clean up after the writer went on
			c.Close()
		}
	}},
	{"controller silent", 3, func(t *testing.T, point string) (guest.Program, func()) {
		p := program(t)
		c := connect(t, &launching{}, p, nil)
		froze(t, c, point, holdForTests())
		return p, func() {
			time.Sleep(holdForTests() + time.Second)
			c.Close()
		}
	}},
	{"component killed, by runs", 3, func(t *testing.T, point string) (guest.Program, func()) {
		p := program(t)
		c := connect(t, &here{}, p, nil)
		froze(t, c, point, 0)
		return p, func() { syscall.Kill(c.Hello().PID, syscall.SIGKILL) }
	}},
}

func long() bool { return os.Getenv("HIKAE_TEST_TIER") != "" }

// holdForTests is the default where there is time for it.
func holdForTests() time.Duration {
	if long() {
		return 8 * time.Second
	}
	return time.Second
}

func froze(t *testing.T, c *guest.Component, point string, hold time.Duration) {
	t.Helper()
	a, err := c.Freeze(soon(t), wire.FreezeArgs{Mounts: []string{point}, HoldMillis: hold.Milliseconds()})
	require.NoError(t, err)
	require.Len(t, a.Frozen, 1)
}

// sweepAway is what the next session does with what a dead component left.
func sweepAway(t *testing.T, p guest.Program) {
	t.Helper()
	r, err := (&here{}).Run(soon(t), program(t).Path, []string{"sweep", "--dir", filepath.Dir(p.Path)}, nil)
	require.NoError(t, err)
	require.Zero(t, r.ExitCode, string(r.Stderr))
}

// R192, and the bar of RELIABILITY 1.5: whoever is killed in a freeze, a writer goes on within 10 s, and nothing is left.
// The long tier does it 100 times.
func TestKilledInFreeze(t *testing.T) {
	points := []string{volume(t, "ext4"), volume(t, "xfs")}
	var all []time.Duration
	n := 0
	for _, d := range deaths {
		times := 1
		if long() {
			times = d.times
		}
		var took []time.Duration
		for range times {
			point := points[n%len(points)]
			n++
			p, die := d.dies(t, point)
			took = append(took, goesOn(t, point, die))
			require.Less(t, took[len(took)-1], thawLimit, d.name)
			if d.name == "component killed, by runs" { // nobody frees the name of a folder whose program may still be run
				require.Eventually(t, func() bool { return len(runFrom(filepath.Dir(p.Path))) == 0 }, 15*time.Second, 10*time.Millisecond)
				sweepAway(t, p)
			}
			gone(t, p)
			require.False(t, thawNow(point))
		}
		slices.Sort(took)
		t.Logf("%s, %d times: a writer went on after %v in the middle, %v at most", d.name, times, took[times/2], took[times-1])
		all = append(all, took...)
	}
	slices.Sort(all)
	t.Logf("%d of %d thawed within %v; at most after %v", len(all), n, thawLimit, all[len(all)-1])
}
