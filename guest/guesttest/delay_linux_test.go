package guesttest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What goes to a far server and back takes twice the delay, arrives whole, and takes no more time for being much.
func TestFar(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	defer group.Wait()
	defer l.Close()
	c, err := net.Dial("tcp", Far(t, l.Addr().String(), 30*time.Millisecond))
	require.NoError(t, err)
	defer c.Close()
	data := bytes.Repeat([]byte("far away "), 200_000)
	start := time.Now()
	group.Go(func() {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	took := time.Since(start)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	require.GreaterOrEqual(t, took, 60*time.Millisecond)
	require.Less(t, took, 5*time.Second)
}
