package guesttest

import (
	"net"
	"path/filepath"
	"testing"
)

// Agent is a running qemu-ga, with a socket in the place of a hypervisor's port.
type Agent struct {
	*World
	Socket string
}

// QGA starts QEMU's guest agent and stops it with the test. Setup is as in [SSHDOptions].
func QGA(t testing.TB, setup string, mayFreeze bool) *Agent {
	t.Helper()
	program := Program(t, "qemu-ga")
	a := &Agent{World: newWorld(t, "qemu-ga")}
	a.Socket = filepath.Join(a.Dir, "ga")
	a.write("setup", setup+"\n", 0o755)
	a.start(mayFreeze, program, "--method", "unix-listen", "--path", a.Base+"/ga", "--statedir", "/run", "--pidfile", "/run/ga.pid")
	a.await(func() bool {
		conn, err := net.Dial("unix", a.Socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return a
}
