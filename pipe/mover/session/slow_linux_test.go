package session

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// A line on which the kernel takes nothing for longer than a lane may be silent, while all the time something arrives at
// the other end, is slow and not dead. One on which nothing arrives is dead, also where the other end goes on talking.
func TestSlowLine(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads=%v", reads), func(t *testing.T) {
			t.Parallel()
			slowLine(t, reads)
		})
	}
}

func slowLine(t *testing.T, reads bool) {
	listener, err := (&net.ListenConfig{Control: narrow}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	peer := make(chan struct{})
	go func() {
		defer close(peer)
		if conn, err := listener.Accept(); err == nil {
			slowPeer(t, conn, reads)
		}
	}()
	dials := 0
	conn, err := (&net.Dialer{Control: narrow}).DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	c, err := NewClient(t.Context(), &ClientOptions{GiveUp: time.Second, Lanes: 1, Dial: dialOnce(&untuned{TCPConn: conn.(*net.TCPConn)}, &dials)})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = c.Call(ctx, put(1, 4<<20-1000))
	require.Error(t, err)
	require.Equal(t, reads, c.Stats().Lanes == 1, "the lane lives")
	require.NoError(t, c.Close())
	<-peer
}

// narrow gives a socket packets and a buffer as on a line: over loopback they are of 64 KiB, and the other side hears
// nothing until half of that is free again.
func narrow(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 512<<10)
	})
}

// untuned is a connection that keeps its options: where the reader and not the line is slow, as here, TCP_USER_TIMEOUT
// takes a window that opens by less than a packet in the making for one that is shut.
type untuned struct {
	*net.TCPConn
	asked bool
}

func (c *untuned) NetConn() net.Conn {
	if !c.asked {
		c.asked = true
		return &memConn{}
	}
	return c.TCPConn
}

// slowPeer talks for six seconds, and reads 60 KB in each, or nothing.
func slowPeer(t *testing.T, conn net.Conn, reads bool) {
	defer conn.Close()
	p := newRaw(t, conn)
	p.next()
	_ = p.send(0, &wire.Welcome{Version: wire.Version, MaxCalls: 8, Window: 4 << 20, MaxLanes: 1, PingEvery: 500, DeadAfter: 1500})
	end := time.Now().Add(6 * time.Second)
	for b := make([]byte, 6<<10); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if p.send(0, &wire.Ping{}) != nil {
			return
		}
		if reads {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}
}
