package scmtest

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// What the fake is asked in a wrong way it answers with a fault, as a machine does; it does not end.
func TestBadCalls(t *testing.T) {
	ours, its := net.Pipe()
	var m Machine
	done := make(chan error, 1)
	go func() { done <- m.Serve(its) }()
	c, err := rpc.Bind(t.Context(), ours, scm.Interface)
	require.NoError(t, err)
	for procedure, args := range map[uint16][]byte{
		scm.CreateServiceW:     {1, 2, 3},
		scm.OpenServiceW:       make([]byte, 19),
		scm.OpenSCManagerW:     {1},
		scm.StartServiceW:      make([]byte, 20),
		scm.QueryServiceStatus: nil,
		scm.CloseServiceHandle: make([]byte, 20),
		99:                     nil,
	} {
		_, err := c.Call(t.Context(), procedure, args)
		var fault *rpc.Fault
		require.ErrorAs(t, err, &fault, "procedure %d", procedure)
	}
	require.NoError(t, c.Close())
	require.NoError(t, <-done)
	require.Empty(t, m.Names())
}
