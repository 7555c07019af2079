package guesttest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startLimit bounds how long a server may take until it answers.
const startLimit = 20 * time.Second

// World is what a server lives in.
type World struct {
	Dir  string // on this machine, with the server's files
	Base string // the same folder, as the server sees it

	t      testing.TB
	daemon string // name of the server's process
	cmd    *exec.Cmd
	alive  io.WriteCloser // the server lives as long as this is open
	ended  chan struct{}
	once   sync.Once
}

// newWorld makes the folder. Its path is short: there are sockets in it.
func newWorld(t testing.TB, daemon string) *World {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces for a server of its own need root")
	}
	Program(t, "unshare")
	Program(t, "setpriv")
	dir, err := os.MkdirTemp("", "world")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &World{t: t, Dir: dir, Base: "/run/hikae", daemon: daemon, ended: make(chan struct{})}
	require.NoError(t, os.Chmod(dir, 0o755))
	return w
}

// Program finds a program or skips the test.
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skipf("there is no %s here", name)
	return ""
}

// write puts a file where the server finds it.
func (w *World) write(name, content string, mode os.FileMode) {
	w.t.Helper()
	path := filepath.Join(w.Dir, name)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(w.t, os.WriteFile(path, []byte(content), mode))
	require.NoError(w.t, os.Chmod(path, mode))
}

// inside runs in the server's own namespaces: $1 is the folder on the machine, the rest what setpriv is told and starts.
const inside = `set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/hikae /run/sshd
mount --bind "$1" /run/hikae
for d in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 none $d; done
mount -t tmpfs -o mode=700 none /root
mount -t tmpfs -o mode=755 none /home
for f in passwd shadow group sudoers; do
	[ ! -e /etc/$f ] || [ ! -e /run/hikae/etc/$f ] || mount --bind /run/hikae/etc/$f /etc/$f
done
[ ! -d /run/hikae/home ] || for h in /run/hikae/home/*; do
	cp -r $h /home/ && chown -R ${h##*/}:${h##*/} /home/${h##*/} && chmod 700 /home/${h##*/}
done
. /run/hikae/setup
shift
exec setpriv "$@"
`

// around ends the server when the test process closes its input, or dies.
const around = `"$@" </dev/null & server=$!
read -r end
kill -9 $server
wait $server
`

// start runs a server among accounts and mounts of its own.
func (w *World) start(mayFreeze bool, command ...string) {
	w.t.Helper()
	keep := "--bounding-set=-sys_admin"
	if mayFreeze {
		keep = "--"
	}
	command = append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"/bin/sh", "-c", inside, "sh", w.Dir, keep}, command...)
	log, err := os.Create(filepath.Join(w.Dir, "log"))
	require.NoError(w.t, err)
	defer log.Close()
	w.cmd = exec.Command("/bin/sh", append([]string{"-c", around, "sh"}, command...)...)
	w.cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LANG=C"}
	w.cmd.Stdout, w.cmd.Stderr = log, log
	w.alive, err = w.cmd.StdinPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, w.cmd.Start())
	go func() {
		defer close(w.ended)
		w.cmd.Wait()
	}()
	w.t.Cleanup(w.Stop)
}

// await waits until the server greets.
func (w *World) await(greets func() bool) {
	w.t.Helper()
	for end := time.Now().Add(startLimit); !greets(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-w.ended:
			end = time.Time{}
		default:
		}
		if strings.Contains(w.Log(), "unshare:") {
			w.t.Skipf("there are no namespaces here: %s", w.Log())
		}
		require.Less(w.t, time.Now(), end, "%s does not start: %s", w.daemon, w.Log())
	}
}

// Log is what the server said so far.
func (w *World) Log() string {
	b, _ := os.ReadFile(filepath.Join(w.Dir, "log"))
	return string(b)
}

// Stop ends the server and all that runs in its world. It may be called again.
func (w *World) Stop() {
	w.once.Do(func() {
		w.alive.Close()
		select {
		case <-w.ended:
		case <-time.After(startLimit):
			w.cmd.Process.Kill()
			<-w.ended
		}
	})
}

// Run runs a shell script among the server's own mounts and processes, as root, and returns what it printed.
func (w *World) Run(script string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, Program(w.t, "nsenter"), "--mount", "--pid", fmt.Sprintf("--target=%d", w.server()),
		"/bin/sh", "-c", script).CombinedOutput()
	require.NoError(w.t, err, string(out))
	return string(out)
}
