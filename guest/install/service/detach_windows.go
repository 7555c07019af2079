package service

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS}
}

// end: what such a process holds is let go by its watchdogs. A Windows service is stopped by its own command.
func end(p *os.Process) error { return p.Kill() }

// runs reports whether a process is one of that program.
func runs(pid int, path string) bool {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return false
	}
	defer windows.CloseHandle(h)
	var code uint32
	if windows.GetExitCodeProcess(h, &code) != nil || code != 259 { // STILL_ACTIVE
		return false
	}
	name := make([]uint16, windows.MAX_LONG_PATH)
	n := uint32(len(name))
	return windows.QueryFullProcessImageName(h, 0, &name[0], &n) == nil && windows.UTF16ToString(name[:n]) == path
}
