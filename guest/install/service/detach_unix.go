//go:build !windows

package service

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// detach makes a process a leader of its own, so that nothing that ends here ends it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func end(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// runs reports whether a process is one of that program, also where its file was replaced since.
func runs(pid int, path string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(exe, " (deleted)") == path && !zombie(pid)
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}
