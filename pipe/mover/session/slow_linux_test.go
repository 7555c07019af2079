package session

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// A line on which the kernel takes nothing for longer than a lane may be silent, while all the time something arrives at
// the other end, is slow and not dead. One on which nothing arrives is dead, also where the other end goes on talking.
func TestSlowLine(t *testing.T) {
	for _, reads := range []bool{true, false} {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		peer := make(chan struct{})
		go func() {
			defer close(peer)
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			p := newRaw(t, conn)
			p.next()
			_ = p.send(0, &wire.Welcome{Version: wire.Version, MaxCalls: 8, Window: 4 << 20, MaxLanes: 1, PingEvery: 100, DeadAfter: 300})
			end := time.Now().Add(2 * time.Second)
			for b := make([]byte, 8<<10); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if p.send(0, &wire.Ping{}) != nil {
					return
				}
				if reads {
					if _, err := conn.Read(b); err != nil {
						return
					}
				}
			}
		}()
		dials := 0
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		c, err := NewClient(t.Context(), &ClientOptions{GiveUp: time.Second, Lanes: 1, Dial: dialOnce(conn, &dials)})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		_, err = c.Call(ctx, put(1, 4<<20-1000))
		require.Error(t, err)
		require.Equal(t, reads, c.Stats().Lanes == 1)
		require.NoError(t, c.Close())
		<-peer
	}
}
