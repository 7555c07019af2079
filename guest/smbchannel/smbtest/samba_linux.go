package smbtest

import (
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
)

// Password is that of the one user.
const Password = "Correct horse 47"

// Samba is a real server on the loopback, with everything it keeps below one folder.
type Samba struct {
	Port int
	User string

	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Settings change smb.conf.
type Settings struct {
	Global []string // lines of the global section
	Admin  []string // lines of ADMIN$
	// NoAdmin leaves ADMIN$ out.
	NoAdmin bool
	// Helpers lets Samba start its own servers of remote procedures, which then own svcctl and srvsvc.
	Helpers bool
}

// StartSamba starts smbd. It skips the test where that cannot be done.
func StartSamba(t testing.TB, set Settings) *Samba {
	t.Helper()
	smbd, pdbedit := program(t, "smbd"), program(t, "pdbedit")
	me, err := user.Current()
	require.NoError(t, err)
	if me.Uid != "0" {
		t.Skip("smbd hands pipes only to root's sockets")
	}
	dir, err := os.MkdirTemp("", "smb") // short: a socket's path has a hundred bytes
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Samba{t: t, dir: dir, Port: freePort(t), User: me.Username}
	for _, sub := range []string{"private", "lock", "state", "cache", "run", "rpc", "windows"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "rpc", "np"), 0o700))
	s.configure(set)
	add := exec.CommandContext(t.Context(), pdbedit, "-s", s.conf(), "-a", "-t", "-u", s.User)
	add.Stdin = strings.NewReader(Password + "\n" + Password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Skipf("pdbedit cannot make a user here: %v: %s", err, out)
	}
	s.start(smbd)
	t.Cleanup(s.Kill)
	return s
}

// program finds a server program, which need not be in a user's path.
func program(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	t.Skipf("%s is not installed (Debian: samba, winbind, iproute2)", name)
	return ""
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Samba) conf() string { return filepath.Join(s.dir, "smb.conf") }

// Windows is the folder behind ADMIN$.
func (s *Samba) Windows() string { return filepath.Join(s.dir, "windows") }

// HostPort is where the server listens.
func (s *Samba) HostPort() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

func (s *Samba) configure(set Settings) {
	helpers := "no"
	if set.Helpers {
		helpers = "yes"
	}
	conf := fmt.Sprintf(`[global]
netbios name = GUEST1
server role = standalone server
interfaces = 127.0.0.1/8
bind interfaces only = yes
smb ports = %[2]d
disable netbios = yes
disable spoolss = yes
load printers = no
server signing = mandatory
rpc start on demand helpers = %[3]s
private dir = %[1]s/private
lock directory = %[1]s/lock
state directory = %[1]s/state
cache directory = %[1]s/cache
pid directory = %[1]s/run
ncalrpc dir = %[1]s/rpc
passdb backend = tdbsam:%[1]s/private/passdb.tdb
log file = %[1]s/log
server min protocol = SMB2_02
%[4]s
`, s.dir, s.Port, helpers, strings.Join(set.Global, "\n"))
	if !set.NoAdmin {
		conf += fmt.Sprintf("[ADMIN$]\npath = %s\nread only = no\nvfs objects = acl_xattr\nacl_xattr:ignore system acls = yes\n%s\n",
			s.Windows(), strings.Join(set.Admin, "\n"))
	}
	require.NoError(s.t, os.WriteFile(s.conf(), []byte(conf), 0o600))
}

func (s *Samba) start(smbd string) {
	s.t.Helper()
	s.cmd = exec.Command(smbd, "--foreground", "--no-process-group", "-s", s.conf())
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := os.Create(filepath.Join(s.dir, "output"))
	require.NoError(s.t, err)
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	require.NoError(s.t, s.cmd.Start())
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", s.HostPort(), time.Second)
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

func (s *Samba) output() []byte {
	said, _ := os.ReadFile(filepath.Join(s.dir, "output"))
	return said
}

// Log is what the server wrote down.
func (s *Samba) Log() string {
	said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(said)
}

// Kill ends the server and the processes that it started, as a power cut would.
func (s *Samba) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
	s.cmd = nil
}
