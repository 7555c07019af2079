//go:build unix

package hooks

import (
	"os/exec"
	"syscall"
)

// together has a program and what it starts be ended together: a shell script that was ended alone leaves its children at work.
func together(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
