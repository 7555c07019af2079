package main

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// detach takes a process off our console and out of our group.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP}
}
