package session

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unsent is what the kernel takes of a lane beyond what is on its way. More would only lie behind the line: a Ping would
// wait there, and a lane that dies would have more to send again.
const unsent = 256 << 10

// tune sets what keeps a TCP connection honest: data that is not acknowledged for deadAfter breaks it (tcp(7)). What is
// no TCP connection, and what the kernel does not know, stays as it is: the deadlines of reads and writes hold anyway.
func tune(conn net.Conn, deadAfter time.Duration) {
	raw := rawConn(conn)
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}

// acknowledged is how many bytes of a connection the other side's kernel has taken so far (tcpi_bytes_acked, tcp(7)).
func acknowledged(conn net.Conn) (n uint64, ok bool) {
	raw := rawConn(conn)
	if raw == nil {
		return 0, false
	}
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n, ok = info.Bytes_acked, true
		}
	})
	return n, ok && err == nil
}

// rawConn finds the TCP connection below others.
func rawConn(conn net.Conn) syscall.RawConn {
	for {
		if tcp, ok := conn.(*net.TCPConn); ok {
			raw, err := tcp.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = under.NetConn()
	}
}
