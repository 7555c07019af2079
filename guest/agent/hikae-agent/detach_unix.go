//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detach takes a process out of our session, so that what ends ours does not end it.
func detach(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
