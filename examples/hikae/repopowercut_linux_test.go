package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// volume is a file system in a file, whose power can be cut.
type volume struct {
	t                 *testing.T
	kind, loop, mount string
}

// newVolume makes one, or skips the test where that cannot be done.
func newVolume(t *testing.T, kind string) *volume {
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	for _, name := range []string{"mkfs." + kind, "losetup"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	dir := t.TempDir()
	v := &volume{t: t, kind: kind, mount: filepath.Join(dir, "mount")}
	image := filepath.Join(dir, "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 2<<30))
	force := map[string]string{"ext4": "-F", "xfs": "-f"}[kind]
	out, err := exec.Command("mkfs."+kind, "-q", force, image).CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skipf("there are no loop devices here: %v", err)
	}
	v.loop = strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", v.loop).Run() })
	require.NoError(t, os.Mkdir(v.mount, 0o700))
	if err := syscall.Mount(v.loop, v.mount, kind, 0, ""); err != nil {
		t.Skipf("%s cannot be mounted here: %v", kind, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(v.mount, syscall.MNT_DETACH) }) // where a check failed, something may be open
	v.prove()
	return v
}

// prove makes sure that a cut takes away what was not synced: a test that cannot lose anything proves nothing.
func (v *volume) prove() {
	v.t.Helper()
	name := filepath.Join(v.mount, "unsynced")
	require.NoError(v.t, os.WriteFile(name, []byte("x"), 0o600))
	require.NoError(v.t, v.cut())
	v.again()
	require.NoFileExists(v.t, name)
}

const (
	shutDown     = 0x8004587d // FS_IOC_SHUTDOWN
	withoutFlush = 2          // what is not in the journal by now is lost, and what the journal has in memory
)

// cut takes the power away: nothing is written any more from this moment on.
func (v *volume) cut() error {
	dir, err := os.Open(v.mount)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.IoctlSetPointerInt(int(dir.Fd()), shutDown, withoutFlush)
}

// again mounts what is left, as the next start of the machine does.
func (v *volume) again() {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return syscall.Unmount(v.mount, 0) == nil }, 10*time.Second, 10*time.Millisecond)
	require.NoError(v.t, syscall.Mount(v.loop, v.mount, v.kind, 0, ""))
}

// lose does a thing and cuts the power at any moment of it, or right after.
func (m *mortal) lose(what string, v *volume) {
	m.t.Helper()
	old := m.key
	a := m.of(what)
	cmd, out, log := m.command(a.args...)
	wait := m.took["start"]/2 + time.Duration(m.rnd.Int64N(int64(m.took[what])))
	failed := make(chan error, 1)
	require.NoError(m.t, cmd.Start())
	time.AfterFunc(wait, func() { failed <- v.cut() })
	watchdog := time.AfterFunc(deadline, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	require.True(m.t, watchdog.Stop(), "%s hangs: %s", what, log)
	require.NoError(m.t, <-failed)
	v.again()
	m.kills[what]++
	if err == nil { // it was done, and said so, before or after the power went
		a.done(out.Bytes())
	}
	m.settleKey(old)
	switch what {
	case "prune":
		m.dead = m.dead || err != nil
	case "repair":
		m.must("verify", "--repair", "--repo", m.at, "--key-file", m.key)
	}
}

// RELIABILITY bar 3: the power of a real file system is cut at random moments while the real program backs up, forgets, prunes,
// repairs or changes keys. After the next mount the very next backup starts at once and is a good one, all is whole, and what was
// reported is there bit for bit.
func TestRealPowerCuts(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			cuts, seed, began := killsOf(1, 10, 100), rand.Uint64(), time.Now()
			if cuts == 1 && kind != "ext4" {
				t.Skip("in the long tiers")
			}
			v := newVolume(t, kind)
			t.Logf("seed %d, %d power cuts", seed, cuts)
			m := newMortal(t, seed, filepath.Join(v.mount, "r"))
			start := time.Now()
			m.must("version")
			m.took["start"] = time.Since(start)
			for _, what := range []string{"backup", "backup", "backup", "forget", "prune", "repair", "rekey"} {
				m.live(what)
			}
			for cut := range cuts {
				what := m.choose()
				m.lose(what, v)
				m.live("backup") // the next job
				m.check(what, "power cut", cut)
				if cut == cuts-1 || m.rnd.IntN(3) == 0 {
					m.ripen(what, "power cut", cut)
					m.check(what, "power cut", cut, "ripe")
				}
				for len(m.order) > mortalKept {
					m.live("forget")
				}
			}
			t.Logf("seed %d: power cut during %v in %v", seed, m.kills, time.Since(began).Round(time.Second))
		})
	}
}
