package kvm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// startBound starts a program that ends in good order when this process is gone. That hangs on the thread that started
// it, which therefore waits for it. ended gets what waiting gave.
func startBound(cmd *exec.Cmd, ended chan<- error) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setsid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return <-started
}

// processFolder is the folder that a process is in, empty where it cannot be read.
func processFolder(pid int, ok bool) string {
	if !ok {
		return ""
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return ""
	}
	return dir
}
