package smbstore_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/smbstore"
)

const (
	testPassword = "correct horse 47"
	testShare    = "backup"
)

// samba is a real server of the test's own, with everything it keeps below one folder.
type samba struct {
	t    testing.TB
	dir  string
	port int
	user string
	cmd  *exec.Cmd
	done chan struct{}
}

// startSamba starts smbd on the loopback. Settings are lines of the share's section, "[global] x = y" of the global
// one.
func startSamba(t testing.TB, settings ...string) *samba {
	t.Helper()
	smbd, pdbedit := program(t, "smbd"), program(t, "pdbedit")
	me, err := user.Current()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "smb") // short: a socket's path has a hundred bytes
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &samba{t: t, dir: dir, port: freePort(t), user: me.Username}
	for _, sub := range []string{"private", "lock", "state", "cache", "run", "rpc", "share"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	s.configure(settings...)
	add := exec.CommandContext(t.Context(), pdbedit, "-s", s.conf(), "-a", "-t", "-u", s.user)
	add.Stdin = strings.NewReader(testPassword + "\n" + testPassword + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Skipf("pdbedit cannot make a user here: %v: %s", err, out)
	}
	s.start(smbd)
	t.Cleanup(s.kill)
	return s
}

// program finds a server program, which need not be in a user's path.
func program(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if p := filepath.Join(dir, name); isProgram(p) {
			return p
		}
	}
	t.Skipf("%s is not installed (Debian: samba)", name)
	return ""
}

func isProgram(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *samba) conf() string { return filepath.Join(s.dir, "smb.conf") }

// folder is a place on the server's disk below the share.
func (s *samba) folder(name string) string { return filepath.Join(s.dir, "share", name) }

func (s *samba) configure(settings ...string) {
	var global, share strings.Builder
	for _, line := range settings {
		if g, ok := strings.CutPrefix(line, "[global] "); ok {
			fmt.Fprintln(&global, g)
			continue
		}
		fmt.Fprintln(&share, line)
	}
	conf := fmt.Sprintf(`[global]
server role = standalone server
interfaces = 127.0.0.1/8
bind interfaces only = yes
smb ports = %[2]d
disable netbios = yes
disable spoolss = yes
load printers = no
rpc start on demand helpers = no
private dir = %[1]s/private
lock directory = %[1]s/lock
state directory = %[1]s/state
cache directory = %[1]s/cache
pid directory = %[1]s/run
ncalrpc dir = %[1]s/rpc
passdb backend = tdbsam:%[1]s/private/passdb.tdb
log file = %[1]s/log
server min protocol = SMB2_02
%[3]s
[%[4]s]
path = %[1]s/share
read only = no
%[5]s
`, s.dir, s.port, global.String(), testShare, share.String())
	require.NoError(s.t, os.WriteFile(s.conf(), []byte(conf), 0o600))
}

func (s *samba) start(smbd string) {
	s.t.Helper()
	s.run(smbd, "--foreground", "--no-process-group", "-s", s.conf())
}

func (s *samba) run(args ...string) {
	s.t.Helper()
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.Create(filepath.Join(s.dir, "output"))
	require.NoError(s.t, err)
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	require.NoError(s.t, s.cmd.Start())
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", s.hostPort(), time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-done:
			s.t.Skipf("smbd does not start here: %s", s.output())
		default:
		}
		require.Less(s.t, time.Now(), end, "smbd does not listen: %s", s.output())
	}
}

func (s *samba) output() []byte {
	said, _ := os.ReadFile(filepath.Join(s.dir, "output"))
	return said
}

// kill ends the server and the processes that it started, as a power cut would.
func (s *samba) kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
	s.cmd = nil
}

func (s *samba) restart() {
	s.kill()
	s.start(program(s.t, "smbd"))
}

func (s *samba) hostPort() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *samba) address(folder string) smbstore.Address {
	return smbstore.Address{Host: s.hostPort(), Share: testShare, Folder: folder}
}

func (s *samba) creds(context.Context) (smbstore.Credentials, error) {
	return smbstore.Credentials{User: s.user, Password: testPassword}, nil
}

// quick are waits for tests.
func quick() *smbstore.Options {
	return &smbstore.Options{
		Timeout: 10 * time.Second, GiveUp: 20 * time.Second, BusyWait: 5 * time.Second, KeepOpen: 200 * time.Millisecond, SeveralWriters: true,
	}
}

// open opens a folder of its own, made for the test.
func (s *samba) open(t testing.TB, folder string, opts *smbstore.Options) *smbstore.Store {
	t.Helper()
	if opts == nil {
		opts = quick()
	}
	st, err := smbstore.Init(context.Background(), s.address(folder), s.creds, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st
}
