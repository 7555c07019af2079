package qmp

import (
	"net"
	"syscall"
)

// PeerPID is the process that listens at the other end, where the system tells.
func (c *Conn) PeerPID() (pid int, ok bool) {
	unix, ok := c.net.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, false
	}
	raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, pid > 0
}
