package sshchannel

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// takesAll is a connection whose other side has gone, and which still takes what is written, as TCP does at first.
type takesAll struct{ net.Conn }

func (takesAll) Read([]byte) (int, error)    { return 0, io.EOF }
func (takesAll) Write(p []byte) (int, error) { return len(p), nil }

func TestNothingIsAskedOfWhoHasGone(t *testing.T) {
	c := &oneWay{Conn: takesAll{}}
	n, err := c.Write([]byte("open"))
	require.NoError(t, err)
	require.Equal(t, 4, n)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = c.Write([]byte("open"))
	require.ErrorIs(t, err, io.EOF)
}
