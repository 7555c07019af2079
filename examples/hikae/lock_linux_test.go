package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// lockUser backs up in the story of the locked folder: nobody.
const lockUser = "65534"

// H12, docs/immutability.md: a folder with lockd beside it, and the user that backs up turns against it.
func TestLockedFolder(t *testing.T) {
	top := lockedFolder(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/locks", Deadline: time.Now().Add(4 * time.Minute), RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TOP", top)
			e.Setenv("PLACE", filepath.Join(top, "at", "place"))
			e.Setenv("HIKAE_STATE_DIR", filepath.Join(top, "state"))
			e.Setenv("HIKAE_CACHE_DIR", filepath.Join(top, "cache"))
			e.Setenv("HIKAE_PASSWORD", "a passphrase")
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": jsonIs, "sample": sample, "same": same, "as": asUser},
	})
}

// asUser runs the tool as the user that backs up, and holds its exit status:  as 0 hikae backup …
func asUser(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "as STATUS PROGRAM ARG…")
	if args[1] == "hikae" {
		args[1] = filepath.Join(ts.Getenv("TOP"), "hikae")
	}
	status(ts, false, append([]string{args[0], "setpriv", "--reuid", lockUser, "--regid", lockUser, "--clear-groups"}, args[1:]...))
}

// lockedFolder makes a folder on an ext4 of its own, with lockd beside it, and all else that the story needs.
func lockedFolder(t *testing.T) (top string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a file system and makes files immutable")
	}
	for _, program := range []string{"go", "mkfs.ext4", "mount", "umount", "setpriv", "chattr"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	top, err := os.MkdirTemp("/tmp", "hikae-lock") // where other users may enter
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(top)) })
	require.NoError(t, os.Chmod(top, 0o755))
	image, at := filepath.Join(top, "image"), filepath.Join(top, "at")
	require.NoError(t, os.Mkdir(at, 0o755))
	f, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Truncate(128<<20), f.Close()))
	briefly(t, "mkfs.ext4", "-q", "-F", image)
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("needs a loop mount: %v: %s", err, out)
	}
	t.Cleanup(func() { briefly(t, "umount", at) })
	for _, dir := range []string{filepath.Join(at, "place"), filepath.Join(top, "state"), filepath.Join(top, "cache"), filepath.Join(top, "out")} {
		require.NoError(t, os.Mkdir(dir, 0o755))
		briefly(t, "chown", lockUser+":"+lockUser, dir)
	}
	copyProgram(t, filepath.Join(top, "hikae"))
	briefly(t, "go", "build", "-o", filepath.Join(top, "lockd"), "../lockd")
	startLockd(t, top)
	return top
}

func startLockd(t *testing.T, top string) {
	t.Helper()
	daemon := exec.Command(filepath.Join(top, "lockd"), "-repo", filepath.Join(top, "at", "place"), "-book", filepath.Join(top, "at", "book"), "-user", lockUser)
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, daemon.Start())
	lines := bufio.NewReader(out)
	ready, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		line, _ := lines.ReadString('\n')
		ready <- line
		_, _ = io.Copy(io.Discard, lines)
	}()
	t.Cleanup(func() {
		_ = daemon.Process.Signal(os.Interrupt)
		<-ended
		_ = daemon.Wait()
	})
	select {
	case line := <-ready:
		require.True(t, json.Valid([]byte(line)), "lockd said %q", line)
	case <-time.After(30 * time.Second):
		t.Fatal("lockd is not ready")
	}
}

// briefly runs a program that has no reason to take long.
func briefly(t *testing.T, args ...string) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
}

// copyProgram puts the program under test where another user can run it.
func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(f, from)
	require.NoError(t, errors.Join(err, f.Close()))
}
