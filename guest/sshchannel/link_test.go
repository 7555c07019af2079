package sshchannel

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// gone is a connection whose other side has gone.
type gone struct{ net.Conn }

func (gone) Read([]byte) (int, error) { return 0, io.EOF }

// Whoever has begun to ask gets the time to wait for the end; whoever comes later is refused.
func TestNobodyAsksWhereNothingComesAnyMore(t *testing.T) {
	c := &line{Conn: gone{}}
	require.NoError(t, c.ask())
	start := time.Now()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.GreaterOrEqual(t, time.Since(start), begins)
	require.ErrorIs(t, c.ask(), io.EOF)

	idle := &line{Conn: gone{}}
	require.False(t, idle.end(io.EOF), "nobody is waited for")
}
