//go:build linux

package kvmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hikae/hikae/kvm/qga"
)

// HotPorts are the buses of every guest that take one more device each while it runs.
var HotPorts = [...]string{"hot0", "hot1"}

// GuestDisk is one disk of a guest. The first must hold an ext4 file system: the guest mounts it on /data and keeps its
// journal there.
type GuestDisk struct {
	Path   string
	Format string // raw or qcow2
	ID     string // of the device
	Serial string // empty: none
}

// Guest is a running virtual machine.
type Guest struct {
	Dir    string // where its sockets are
	cmd    *exec.Cmd
	ended  chan struct{}
	log    string
	stderr bytes.Buffer // to be read when QEMU has ended
}

// QMP is the path of the monitor's socket.
func (g *Guest) QMP() string { return filepath.Join(g.Dir, "qmp.sock") }

// Agent is the path of the guest agent's socket.
func (g *Guest) Agent() string { return filepath.Join(g.Dir, "qga.sock") }

// Start boots a guest and waits until its agent is running, at most 2 minutes. The path of dir must be short, for it
// holds sockets. The caller kills the guest.
func (f *Fixture) Start(ctx context.Context, dir string, disks []GuestDisk) (*Guest, error) {
	g, err := f.launch(dir, smallMemory, "", disks)
	if err != nil {
		return nil, err
	}
	return g, g.awaitReady(ctx)
}

// Memory of the guests, in MiB.
const (
	smallMemory  = 256
	serverMemory = 384
)

// launch starts QEMU, and waits for nothing.
func (f *Fixture) launch(dir string, memory int, line string, disks []GuestDisk) (*Guest, error) {
	g := &Guest{Dir: dir, log: filepath.Join(dir, "serial.log"), ended: make(chan struct{})}
	if err := os.WriteFile(g.log, nil, 0o600); err != nil {
		return nil, err
	}
	g.cmd = exec.Command("qemu-system-x86_64", f.arguments(g, memory, line, disks)...)
	g.cmd.Stderr = &g.stderr
	return g, g.run()
}

// awaitReady waits for a guest that was launched. One that does not come up is killed.
func (g *Guest) awaitReady(ctx context.Context) error {
	err := g.ready(ctx)
	if err != nil {
		g.Kill()
		err = fmt.Errorf("start the guest: %w: %s", err, g.stderr.String())
	}
	return err
}

// run starts QEMU so that it ends with this process, also where a test is killed. That hangs on the thread that started
// it, which therefore waits for it.
func (g *Guest) run() error {
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := g.cmd.Start()
		started <- err
		if err == nil {
			g.cmd.Wait() // how it ended is of no interest: some tests kill it
			close(g.ended)
		}
	}()
	return <-started
}

func (f *Fixture) arguments(g *Guest, memory int, line string, disks []GuestDisk) []string {
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(memory), "-name", "fx",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", f.kernel, "-initrd", f.initramfs, "-append", "console=ttyS0 quiet panic=-1 mitigations=off " + line,
		"-serial", "file:" + g.log, "-qmp", "unix:" + g.QMP() + ",server=on,wait=off",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=qga0,path=" + g.Agent() + ",server=on,wait=off",
		"-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
		"-device", "pcie-root-port,chassis=1,id=" + HotPorts[0], "-device", "pcie-root-port,chassis=2,id=" + HotPorts[1],
	}
	for i, d := range disks {
		n := strconv.Itoa(i)
		device := "virtio-blk-pci,drive=disk" + n + ",id=" + d.ID
		if d.Serial != "" {
			device += ",serial=" + d.Serial
		}
		args = append(args,
			"-blockdev", "driver=file,node-name=file"+n+",filename="+d.Path+",discard=unmap",
			"-blockdev", "driver="+d.Format+",node-name=disk"+n+",file=file"+n+",discard=unmap",
			"-device", device)
	}
	return args
}

// ready waits for the word that the guest's init says last.
func (g *Guest) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		text, err := os.ReadFile(g.log)
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte("FX-READY")) {
			return nil
		}
		select {
		case <-g.ended:
			return fmt.Errorf("qemu ended: its console: %s", text)
		case <-ctx.Done():
			return fmt.Errorf("%w: its console: %s", ctx.Err(), text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the guest as a power cut does. Killing one that has ended is right too.
func (g *Guest) Kill() {
	g.cmd.Process.Kill()
	<-g.ended
}

// Wait waits until the guest has ended by itself.
func (g *Guest) Wait(ctx context.Context) error {
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fx lets the guest's program do one thing, within the time that the agent's client gives it, and returns what it
// printed.
func (g *Guest) Fx(ctx context.Context, args ...string) (string, error) {
	agent := qga.New(g.Agent(), nil)
	defer agent.Close()
	r, err := agent.Exec(ctx, "/bin/fx", args, nil, 1<<20)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("exit status %d", r.ExitCode)
	}
	if err != nil {
		return "", fmt.Errorf("fx %v in the guest: %w: %s", args, err, r.Stderr)
	}
	return string(r.Stdout), nil
}

// Console is what the guest's kernel and init have printed.
func (g *Guest) Console() string {
	text, _ := os.ReadFile(g.log)
	return string(text)
}

// Threads says what QEMU's threads are waiting for, for a test that finds that it answers nobody any more: each thread's
// name, state, where in the kernel it waits, the system call with its arguments, and how often it has waited so far.
func (g *Guest) Threads() string {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", g.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return "there is no such process\n"
	}
	var b strings.Builder
	for _, task := range tasks {
		read := func(name string) string {
			text, _ := os.ReadFile(filepath.Join(task, name))
			return strings.TrimSpace(string(text))
		}
		var waited []string
		for line := range strings.Lines(read("status")) {
			if strings.HasPrefix(line, "State:") || strings.Contains(line, "voluntary_ctxt") {
				waited = append(waited, strings.Join(strings.Fields(line), " "))
			}
		}
		fmt.Fprintf(&b, "%s %s: %s, %s, %s\n", filepath.Base(task), read("comm"), read("wchan"), read("syscall"), strings.Join(waited, ", "))
	}
	return b.String()
}

// Sockets lists the unix sockets in the guest's folder and around it, by the kernel's table: who is connected, and who
// waits to be accepted.
func (g *Guest) Sockets() string {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, filepath.Dir(g.Dir)) {
			b.WriteString(line)
		}
	}
	return b.String()
}
