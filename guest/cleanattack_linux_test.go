package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// started runs a copy of sleep from a folder of that name as uid 65534, as an ordinary user of the guest may.
func startedAs(t *testing.T, dir string, arg0 string) *exec.Cmd {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	program, err := os.ReadFile("/bin/sleep")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p"), program, 0o755))
	cmd := exec.Command(filepath.Join(dir, "p"), "60")
	cmd.Args[0] = arg0
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// An ordinary user chooses which process root kills: ls prints a line break in a program's path as it is.
func TestCleanScriptKillsNobodyElse(t *testing.T) {
	asRoot(t)
	top, err := os.MkdirTemp("/tmp", "zz")
	require.NoError(t, err)
	defer os.RemoveAll(top)
	require.NoError(t, os.Chmod(top, 0o755))
	victim := exec.Command("/bin/sleep", "60") // root's, anywhere
	require.NoError(t, victim.Start())
	died := make(chan error, 1)
	go func() { died <- victim.Wait() }()
	defer victim.Process.Kill()
	ours := "/tmp/hikae-zzzzzzzzzzzzzzzzzzzz" // was there; its name is in every ps
	startedAs(t, fmt.Sprintf("%s/\nl /proc/%d/exe -> %s", top, victim.Process.Pid, ours), "watchdog")
	cmd := exec.Command("/bin/sh", "-c", cleanScript, "sh", ours)
	require.NoError(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	select {
	case err := <-died:
		t.Fatalf("root's own process, which has nothing to do with us, was ended by root: %v", err)
	case <-time.After(6 * time.Second):
	}
}

// An ordinary user makes every removal fail: a program of his counts as ours, and is spared for a word on its command line.
func TestCleanScriptIsNotFooled(t *testing.T) {
	asRoot(t)
	top, err := os.MkdirTemp("/tmp", "zz")
	require.NoError(t, err)
	defer os.RemoveAll(top)
	require.NoError(t, os.Chmod(top, 0o755))
	ours := "/tmp/hikae-yyyyyyyyyyyyyyyyyyyy"
	startedAs(t, top+"/x -> "+ours, "watchdog")
	began := time.Now()
	out, err := exec.Command("/bin/sh", "-c", cleanScript, "sh", ours).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "looked\n", string(out), "after %v", time.Since(began))
}

// A folder that others may write to, or that belongs to somebody else, would let them put their own program in the place of
// ours, which is then run as root.
func TestTempOfOthers(t *testing.T) {
	asRoot(t)
	for name, c := range map[string]struct {
		mode     os.FileMode
		uid, gid int
		good     bool
	}{
		"ours":               {0o700, 0, 0, true},
		"a group writes":     {0o770, 0, 65534, false},
		"others write":       {0o707, 0, 0, false},
		"others may, sticky": {0o777 | os.ModeSticky, 0, 0, true},
		"somebody else's":    {0o700, 65534, 65534, false},
	} {
		above := filepath.Join(t.TempDir(), "above")
		dir := filepath.Join(above, "tmp")
		for _, of := range []string{"folder", "folder above"} {
			require.NoError(t, os.MkdirAll(dir, 0o700))
			at := map[string]string{"folder": dir, "folder above": above}[of]
			require.NoError(t, os.Chown(at, c.uid, c.gid))
			require.NoError(t, os.Chmod(at, c.mode))
			out, err := exec.Command("/bin/sh", "-c", probeScript, "sh", "mark", dir).Output()
			require.NoError(t, err)
			require.Equal(t, c.good, strings.Contains(string(out), "temp="+dir+"\n"), "%s, %s: %s", name, of, out)
			require.NoError(t, os.RemoveAll(above))
		}
	}
}

// asRoot skips where other users cannot be had.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user too")
	}
}
