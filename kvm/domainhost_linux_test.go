package kvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/kvmtest"
)

// host is a libvirt of the test's own: daemon, sockets, state and domain.
type host struct {
	t      *testing.T
	dir    string // all of it
	socket string
	uri    string
	pids   string // folder of the files with the process ids of QEMUs
	log    string
	user   *syscall.Credential // whose its machines are; nil: the user of this test
	daemon *exec.Cmd
}

// nobody is who a session's daemon runs as where the test is root: a session of root's is none.
const nobody = 65534

// newSession starts a daemon as an ordinary user's session has it: all its folders are in the test's.
func newSession(t *testing.T) *host {
	h := newHost(t, "qemu:///session")
	if os.Geteuid() == 0 {
		h.user = &syscall.Credential{Uid: nobody, Gid: nobody}
		require.NoError(t, os.Chown(h.dir, nobody, nobody))
	}
	h.socket = filepath.Join(h.dir, "run/libvirt/libvirt-sock")
	h.pids = filepath.Join(h.dir, "run/libvirt/qemu/run")
	h.daemon = exec.Command("libvirtd", "-f", h.configure("config/libvirt/qemu.conf", ""))
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Credential: h.user}
	h.daemon.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "XDG_RUNTIME_DIR=" + h.dir + "/run",
		"XDG_CONFIG_HOME=" + h.dir + "/config", "XDG_CACHE_HOME=" + h.dir + "/cache", "XDG_DATA_HOME=" + h.dir + "/data"}
	h.start()
	return h
}

// systemFolders are where the system's daemon keeps things; in its own view of the file system they are the test's.
var systemFolders = map[string]string{
	"run": "/run/libvirt", "lib": "/var/lib/libvirt", "etc": "/etc/libvirt", "log": "/var/log/libvirt", "cache": "/var/cache/libvirt",
}

// newSystem starts a daemon as the system has it: as root, with machines of another user.
func newSystem(t *testing.T) *host {
	if os.Geteuid() != 0 {
		t.Skip("a daemon for the system needs root")
	}
	h := newHost(t, "qemu:///system")
	h.socket = filepath.Join(h.dir, "run/libvirt-sock")
	h.pids = filepath.Join(h.dir, "run/qemu")
	script := "set -e; mount --make-rprivate /"
	for ours, theirs := range systemFolders {
		if _, err := os.Stat(theirs); err != nil {
			require.NoError(t, os.MkdirAll(theirs, 0o755)) // a place to mount at, as installing libvirt makes it
		}
		require.NoError(t, os.MkdirAll(filepath.Join(h.dir, ours), 0o755))
		script += fmt.Sprintf("; mount --bind %s %s", filepath.Join(h.dir, ours), theirs)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(h.dir, "lib/qemu"), 0o755))
	conf := h.configure("etc/qemu.conf", "unix_sock_dir = \"/run/libvirt\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n")
	h.daemon = exec.Command("unshare", "-m", "sh", "-c", script+"; exec libvirtd -f "+conf+" -p "+filepath.Join(h.dir, "pid"))
	h.start()
	return h
}

func newHost(t *testing.T, uri string) *host {
	t.Helper()
	need(t, "libvirtd", "virsh", "unshare")
	dir, err := os.MkdirTemp("", "kv") // short, for sockets
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	h := &host{t: t, dir: dir, uri: uri, log: filepath.Join(dir, "libvirtd.log")}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return h
}

// configure writes the daemon's configuration, and that of its driver: no access control that needs the machine's own
// set-up, no control groups, no helper daemon for logs.
func (h *host) configure(driver, more string) (path string) {
	h.t.Helper()
	for name, text := range map[string]string{
		"libvirtd.conf": more + "log_level = 3\nlog_outputs = \"3:file:" + h.log + "\"\n",
		driver:          "stdio_handler = \"file\"\ncgroup_controllers = [ ]\nsecurity_driver = \"none\"\n",
	} {
		file := filepath.Join(h.dir, name)
		require.NoError(h.t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(h.t, os.WriteFile(file, []byte(text), 0o644))
	}
	h.own()
	return filepath.Join(h.dir, "libvirtd.conf")
}

// own gives what the test made to the machines' user.
func (h *host) own() {
	h.t.Helper()
	if h.user == nil {
		return
	}
	require.NoError(h.t, filepath.WalkDir(h.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, int(h.user.Uid), int(h.user.Gid))
		}
		return err
	}))
}

// start starts the daemon, which ends with this process: that hangs on the thread that starts it.
func (h *host) start() {
	h.t.Helper()
	if h.daemon.SysProcAttr == nil {
		h.daemon.SysProcAttr = &syscall.SysProcAttr{}
	}
	h.daemon.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := h.daemon.Start()
		started <- err
		if err == nil {
			h.daemon.Wait()
		}
		close(ended)
	}()
	require.NoError(h.t, <-started)
	h.t.Cleanup(func() {
		h.killMachines()
		h.daemon.Process.Kill()
		<-ended
	})
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, err := h.command("virsh", "-q", "-c", h.url(), "version").CombinedOutput()
		if err == nil {
			return
		}
		if time.Since(begun) > 30*time.Second {
			text, _ := os.ReadFile(h.log)
			h.t.Skipf("libvirtd does not start here: %s: %s", out, text)
		}
	}
}

func (h *host) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	cmd := exec.CommandContext(ctx, name, args...)
	h.t.Cleanup(cancel)
	cmd.Env = append(os.Environ(), "HOME="+h.dir, "LC_ALL=C")
	return cmd
}

func (h *host) url() string {
	driver := strings.TrimPrefix(h.uri, "qemu://")
	return "qemu+unix://" + driver + "?socket=" + h.socket
}

func (h *host) virsh(args ...string) string {
	h.t.Helper()
	out, err := h.command("virsh", append([]string{"-q", "-c", h.url()}, args...)...).Output()
	if err != nil {
		text, _ := os.ReadFile(h.log)
		require.NoError(h.t, err, "virsh %v: %s", args, text)
	}
	return string(out)
}

// killMachines ends what libvirt started, by the process ids that it wrote down.
func (h *host) killMachines() {
	files, _ := filepath.Glob(filepath.Join(h.pids, "*.pid"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		line, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/cmdline")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && strings.Contains(string(line), "qemu-system") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

const domainXML = `<domain type='qemu'>
  <name>web1</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>DIR/kernel</kernel><initrd>DIR/initrd</initrd><cmdline>LINE</cmdline></os>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='DIR/system.qcow2'/><target dev='vda' bus='virtio'/><serial>` + system + `</serial></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='DIR/data.qcow2'/><target dev='vdb' bus='virtio'/></disk>
    <serial type='file'><source path='DIR/serial.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
`

// boot defines the test's guest as a domain and starts it. Emulation is asked for by name: whatever /dev/kvm is.
func (h *host) boot(f *kvmtest.Fixture) {
	h.t.Helper()
	kernel, initramfs, line := f.Boot()
	for name, from := range map[string]string{"kernel": kernel, "initrd": initramfs} {
		if os.Link(from, filepath.Join(h.dir, name)) != nil {
			content, err := os.ReadFile(from)
			require.NoError(h.t, err)
			require.NoError(h.t, os.WriteFile(filepath.Join(h.dir, name), content, 0o644))
		}
	}
	xml := strings.NewReplacer("DIR", h.dir, "LINE", line).Replace(domainXML)
	require.NoError(h.t, os.WriteFile(filepath.Join(h.dir, "web1.xml"), []byte(xml), 0o644))
	for _, name := range []string{"system.qcow2", "data.qcow2"} {
		if h.user != nil {
			require.NoError(h.t, os.Chown(filepath.Join(h.dir, name), int(h.user.Uid), int(h.user.Gid)))
		}
	}
	h.virsh("define", filepath.Join(h.dir, "web1.xml"))
	h.virsh("start", "web1")
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(h.dir, "serial.log"))
		if strings.Contains(string(text), "FX-READY") {
			return
		}
		require.Less(h.t, time.Since(begun), time.Minute, "the guest does not come up: %s", text)
	}
}
