//go:build !windows

package service

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// dieNow is a kill that nothing can be done about.
func dieNow() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }

// killed reports whether a process ended by a signal.
func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

const errFull = syscall.ENOSPC

// smallDisk mounts a small file system of its own.
func smallDisk(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	mountSmall(t, dir)
}
