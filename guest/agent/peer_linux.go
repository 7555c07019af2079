package agent

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

var errPeer = errors.New("somebody else's process")

// ownPeer wants a process of this account, or of root, at the other end of a socket.
func ownPeer(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errPeer
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return errPeer
	}
	return nil
}
