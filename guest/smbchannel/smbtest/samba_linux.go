package smbtest

import (
	"bytes"
	"context"
	"errors"
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

// Password is that of the one user, where settings name none.
const Password = "Correct horse 47"

// ErrAbsent says that this machine cannot run Samba: a program is not installed, or the process may not.
var ErrAbsent = fmt.Errorf("no Samba here: %w", errors.ErrUnsupported)

// Samba is a real server on the loopback, with everything it keeps below one folder.
type Samba struct {
	Port     int
	User     string
	Password string

	dir     string
	windows string
	log     string // of the last one, once its folder is gone
	cmd     *exec.Cmd
	done    chan struct{}
}

// Settings change smb.conf.
type Settings struct {
	Global []string // lines of the global section
	Admin  []string // lines of ADMIN$
	// NoAdmin leaves ADMIN$ out.
	NoAdmin bool
	// Helpers lets Samba start its own servers of remote procedures, which then own svcctl and srvsvc.
	Helpers bool
	// Name is what the machine calls itself. Empty: GUEST1.
	Name string
	// User may log on, and is whoever runs Samba once inside. Empty: by that one's own name. Password is the user's.
	User, Password string
	// Windows is the folder behind ADMIN$. Empty: one of Samba's own.
	Windows string
	Shares  []Share
}

// Share is a folder that is shared besides ADMIN$.
type Share struct {
	Name, Path string
	Lines      []string
}

// StartSamba starts smbd for a test, and skips the test where that cannot be done.
func StartSamba(t testing.TB, set Settings) *Samba {
	t.Helper()
	s, err := LaunchSamba(t.Context(), set)
	if errors.Is(err, ErrAbsent) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// LaunchSamba starts smbd, which runs until Close. Where it cannot be run at all, the error is ErrAbsent. The context bounds the
// start alone.
func LaunchSamba(ctx context.Context, set Settings) (s *Samba, err error) {
	smbd, err := program("smbd")
	if err != nil {
		return nil, err
	}
	pdbedit, err := program("pdbedit")
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if me.Uid != "0" {
		return nil, fmt.Errorf("%w: smbd hands pipes only to root's sockets", ErrAbsent)
	}
	s = &Samba{User: set.User, Password: set.Password, windows: set.Windows}
	if s.User == "" {
		s.User = me.Username
	}
	if s.Password == "" {
		s.Password = Password
	}
	if s.dir, err = os.MkdirTemp("", "smb"); err != nil { // short: a socket's path has a hundred bytes
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err = s.lay(set, me.Username); err != nil {
		return nil, err
	}
	add := exec.CommandContext(ctx, pdbedit, "-s", s.conf(), "-a", "-t", "-u", me.Username)
	add.Stdin = strings.NewReader(s.Password + "\n" + s.Password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: pdbedit cannot make a user: %w: %s", ErrAbsent, err, out)
	}
	return s, s.start(ctx, smbd)
}

// lay makes the folders and the settings.
func (s *Samba) lay(set Settings, account string) (err error) {
	if s.Port, err = freePort(); err != nil {
		return err
	}
	for _, sub := range []string{"private", "lock", "state", "cache", "run", "rpc"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "rpc", "np"), 0o700); err != nil {
		return err
	}
	if s.windows == "" {
		s.windows = filepath.Join(s.dir, "windows")
	}
	if err := os.MkdirAll(s.windows, 0o755); err != nil {
		return err
	}
	if s.User != account {
		if strings.ContainsAny(s.User, "\"\n") {
			return fmt.Errorf("user %q: %w", s.User, os.ErrInvalid)
		}
		line := "!" + account + ` = "` + s.User + "\"\n"
		if err := os.WriteFile(s.usersFile(), []byte(line), 0o600); err != nil {
			return err
		}
		set.Global = append([]string{"username map = " + s.usersFile()}, set.Global...)
	}
	return s.configure(set)
}

// Close ends the server and removes what it kept.
func (s *Samba) Close() {
	s.Kill()
	s.log = s.Log()
	_ = os.RemoveAll(s.dir)
}

// program finds a server program, which need not be in a user's path.
func program(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%w: %s is not installed (Debian: samba, winbind, iproute2)", ErrAbsent, name)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *Samba) conf() string      { return filepath.Join(s.dir, "smb.conf") }
func (s *Samba) usersFile() string { return filepath.Join(s.dir, "users") }

// Windows is the folder behind ADMIN$.
func (s *Samba) Windows() string { return s.windows }

// HostPort is where the server listens.
func (s *Samba) HostPort() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

func (s *Samba) configure(set Settings) error {
	helpers := "no"
	if set.Helpers {
		helpers = "yes"
	}
	if set.Name == "" {
		set.Name = Name
	}
	conf := fmt.Sprintf(`[global]
netbios name = %[5]s
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
`, s.dir, s.Port, helpers, strings.Join(set.Global, "\n"), set.Name)
	if !set.NoAdmin {
		conf += fmt.Sprintf("[ADMIN$]\npath = %s\nread only = no\nvfs objects = acl_xattr\nacl_xattr:ignore system acls = yes\n%s\n",
			s.windows, strings.Join(set.Admin, "\n"))
	}
	for _, share := range set.Shares {
		conf += fmt.Sprintf("[%s]\npath = %s\nread only = no\n%s\n", share.Name, share.Path, strings.Join(share.Lines, "\n"))
	}
	return os.WriteFile(s.conf(), []byte(conf), 0o600)
}

// start starts smbd and waits until it listens.
func (s *Samba) start(ctx context.Context, smbd string) error {
	cmd := exec.Command(smbd, "--foreground", "--no-process-group", "-s", s.conf())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	s.cmd, s.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := net.DialTimeout("tcp", s.HostPort(), time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-done:
			return fmt.Errorf("%w: smbd does not start: %s", ErrAbsent, s.output())
		case <-ctx.Done():
			return fmt.Errorf("smbd does not listen: %w: %s", ctx.Err(), s.output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Samba) output() []byte {
	said, _ := os.ReadFile(filepath.Join(s.dir, "output"))
	return said
}

// Log is what the server wrote down.
func (s *Samba) Log() string {
	said, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return s.log
	}
	return string(said)
}

// Kill ends the server and the processes that it started, as a power cut would.
func (s *Samba) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
	killHelpers(s.conf())
	s.cmd = nil
}

// Status is what Samba's smbstatus says of locked files, as JSON.
func (s *Samba) Status(ctx context.Context) ([]byte, error) {
	tool, err := program("smbstatus")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "-s", s.conf(), "--json", "-L")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("smbstatus: %w: %s", err, said.Bytes())
	}
	return out, nil
}
