package smbtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the domain and its one machine are called.
const (
	Realm          = "HIKAE.TEST"
	Controller     = "dc1.hikae.test"
	controllerAddr = "10.99.0.1"
)

// Domain is a domain controller, which is a guest too: it has ADMIN$, and Samba's own servers behind its pipes.
type Domain struct {
	KDC      string // of its port 88
	HostPort string // of its port 445
}

// winbindDir is where programs look for winbindd, whatever its settings say.
const winbindDir = "/run/samba/winbindd"

const insideVariable = "HIKAE_TEST_INSIDE"

// Alone runs a test once more in a network of its own, where it can have an address and well-known ports, and returns
// false; there it returns true. Other tests of the process are not run again.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=110s")
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
	}
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip(string(out))
	}
	require.NoError(t, err, string(out))
	t.Log(string(out))
	return false
}

// StartDomain makes a domain and starts its controller, in a network of the test's own: see Alone. Password is its
// Administrator's too.
func StartDomain(t testing.TB) *Domain {
	t.Helper()
	require.Equal(t, t.Name(), os.Getenv(insideVariable), "a domain is for a test that is Alone")
	tool, samba := needed(t, "samba-tool"), needed(t, "samba")
	needed(t, "winbindd")
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "up"}, {"ip", "addr", "add", controllerAddr + "/32", "dev", "lo"}, {"hostname", "dc1"},
		{"mount", "--make-rprivate", "/"}, {"mount", "-t", "tmpfs", "none", "/run"}, {"mkdir", "-p", winbindDir},
	} {
		out, err := exec.CommandContext(t.Context(), needed(t, args[0]), args[1:]...).CombinedOutput()
		if err != nil {
			t.Skipf("%v: %v: %s", args, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "dc")
	require.NoError(t, err)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			t.Logf("%s", log[max(0, len(log)-8000):])
		}
		_ = os.RemoveAll(dir)
	})
	provision := exec.CommandContext(t.Context(), tool, "domain", "provision", "--realm="+Realm, "--domain=HIKAE", "--server-role=dc",
		"--adminpass="+Password, "--dns-backend=NONE", "--host-name=dc1", "--host-ip="+controllerAddr, "--targetdir="+dir)
	if out, err := provision.CombinedOutput(); err != nil {
		t.Skipf("samba-tool cannot make a domain here (Debian: samba, samba-ad-provision): %v: %s", err, out)
	}
	conf := finish(t, dir)
	run(t, dir, samba, "--foreground", "--no-process-group", "-s", conf)
	d := &Domain{KDC: net.JoinHostPort(controllerAddr, "88"), HostPort: net.JoinHostPort(controllerAddr, "445")}
	await(t, dir, "tcp", d.KDC)
	await(t, dir, "tcp", d.HostPort)
	await(t, dir, "unix", filepath.Join(winbindDir, "pipe")) // who maps users
	return d
}

// needed is program for tests, which are skipped without it.
func needed(t testing.TB, name string) string {
	t.Helper()
	path, err := program(name)
	if err != nil {
		t.Skip(err)
	}
	return path
}

// finish keeps everything of the controller's below its folder, and gives it ADMIN$.
func finish(t testing.TB, dir string) (conf string) {
	t.Helper()
	conf = filepath.Join(dir, "etc", "smb.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	windows := filepath.Join(dir, "windows", "System32")
	require.NoError(t, os.MkdirAll(windows, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(windows, "ntdll.dll"), library(0x8664), 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "run", "np"), 0o755))
	global := fmt.Sprintf(`[global]
log file = %[1]s/log
pid directory = %[1]s/run
ncalrpc dir = %[1]s/ncalrpc
ntp signd socket directory = %[1]s/ntp
ntlm auth = disabled
server services = s3fs, rpc, ldap, cldap, kdc, winbindd
disable netbios = yes
`, dir)
	changed := strings.Replace(string(text), "[global]\n", global, 1)
	changed = strings.ReplaceAll(changed, "log file = /var", "; log file = /var")
	changed = strings.ReplaceAll(changed, "\tserver services", "\t; server services")
	changed += fmt.Sprintf("\n[ADMIN$]\npath = %s\nread only = no\n", filepath.Dir(windows))
	require.NoError(t, os.WriteFile(conf, []byte(changed), 0o600))
	return conf
}

// run starts a server whose output goes into the folder, and ends it with the test.
func run(t testing.TB, dir string, args ...string) {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, "output"))
	require.NoError(t, err)
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// await waits until something listens.
func await(t testing.TB, dir, network, addr string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(filepath.Join(dir, "output"))
			require.FailNow(t, "the controller does not listen", "%v\n%s", err, said)
		}
	}
}
