//go:build linux

package appstest

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Server is a program that runs as an account of its own.
type Server struct {
	cmd  *exec.Cmd
	log  *os.File
	gone chan struct{}
}

// As makes a command run as an account.
func As(t testing.TB, account, name string, args ...string) *exec.Cmd {
	t.Helper()
	u, err := user.Lookup(account)
	if err != nil {
		t.Skipf("there is no account %s: %v", account, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	require.NoError(t, err)
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + u.HomeDir, "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if int(uid) != os.Geteuid() {
		NeedRoot(t)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
	}
	return cmd
}

// start starts a server. The signal end ends it, and what it has started, at once; it gets it at the test's end.
func start(t testing.TB, cmd *exec.Cmd, log string, end syscall.Signal) *Server {
	t.Helper()
	f, err := os.Create(log)
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = f, f
	require.NoError(t, cmd.Start())
	s := &Server{cmd: cmd, log: f, gone: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(s.gone)
	}()
	t.Cleanup(func() {
		s.Stop(t, end)
		_ = f.Close()
	})
	return s
}

// Pid is the server's number.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Log is the end of what the server wrote.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.log.Name())
	return string(b[max(0, len(b)-4<<10):])
}

// Running reports whether the server has not ended.
func (s *Server) Running() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// Stop ends the server by a signal, and waits for its end and that of all it started.
func (s *Server) Stop(t testing.TB, sig syscall.Signal) {
	if !s.Running() {
		return
	}
	family := children(t, s.Pid())
	for _, pid := range append(family, s.Pid()) {
		_ = syscall.Kill(pid, syscall.SIGCONT) // it may hang
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.gone:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.gone
	}
	for _, pid := range family {
		for n := 0; n < 100 && syscall.Kill(pid, 0) == nil; n++ {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// freeze stops or continues a server and all its children, as a host does that hangs.
func (s *Server) freeze(t testing.TB, sig syscall.Signal) {
	t.Helper()
	for _, pid := range children(t, s.Pid()) {
		_ = syscall.Kill(pid, sig)
	}
	require.NoError(t, syscall.Kill(s.Pid(), sig))
}

// Hang makes the server hang until the returned function is called, or the test ends.
func (s *Server) Hang(t testing.TB) (goOn func()) {
	t.Helper()
	s.freeze(t, syscall.SIGSTOP)
	goOn = func() {
		if s.Running() {
			s.freeze(t, syscall.SIGCONT)
		}
	}
	t.Cleanup(goOn)
	return goOn
}

// children are the processes that a process has started.
func children(t testing.TB, pid int) (all []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name before may hold anything but this, in tests
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	return all
}
