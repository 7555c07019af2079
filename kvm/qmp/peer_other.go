//go:build !linux

package qmp

// PeerPID is the process that listens at the other end, where the system tells.
func (c *Conn) PeerPID() (pid int, ok bool) { return 0, false }
