package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// bootProcess is a QEMU that ends with this process.
type bootProcess struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// bootQEMU starts QEMU. The kernel ends it with us: that hangs on the thread that started it, which therefore waits for it.
func bootQEMU(command []string, log string) (*bootProcess, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &bootProcess{cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // its log says how it ended
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return p, nil
}

func (p *bootProcess) pid() int { return p.cmd.Process.Pid }

// kill ends it. Killing one that has ended is right too.
func (p *bootProcess) kill() {
	_ = p.cmd.Process.Kill()
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second): // in the kernel's hands
	}
}

// allocated is how many bytes of a file take room.
func allocated(path string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// endBooted ends the QEMU whose machine is named as a folder is.
func endBooted(ctx context.Context, dir string) error {
	name := []byte("-name\x00" + filepath.Base(dir) + "\x00")
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range procs {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, name) {
			continue // it has ended, or is somebody else's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end QEMU %d: %w", pid, err)
		}
		for { // until it has let go of the folder's files
			if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) || zombie(pid) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("QEMU %d does not end: %w", pid, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// zombie reports whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	i := bytes.LastIndexByte(line, ')')
	return i > 0 && i+2 < len(line) && line[i+2] == 'Z'
}
