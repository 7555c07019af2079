package scm_test

import (
	"context"
	"net"
	"testing"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

// dialer hands one connection to the other library.
type dialer struct{ conn net.Conn }

func (d dialer) DialContext(context.Context, string, string) (net.Conn, error) { return d.conn, nil }

// An independent client, generated from the standard's own definitions, gets along with our fake: what the fake takes and
// answers is not our client's idea alone.
func TestOtherClient(t *testing.T) {
	ours, its := net.Pipe()
	var machine scmtest.Machine
	machine.Start = func(string) (scmtest.Process, error) { return &process{done: make(chan struct{})}, nil }
	done := make(chan error, 1)
	go func() { done <- machine.Serve(its) }()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, err := dcerpc.Dial(ctx, "127.0.0.1", dcerpc.WithDialer(dialer{ours}), dcerpc.WithEndpoint("ncacn_ip_tcp:[445]"))
	require.NoError(t, err)
	client, err := svcctl.NewSvcctlClient(ctx, conn, dcerpc.WithInsecure())
	require.NoError(t, err)
	manager, err := client.OpenSCMW(ctx, &svcctl.OpenSCMWRequest{DesiredAccess: 3})
	require.NoError(t, err)
	created, err := client.CreateServiceW(ctx, &svcctl.CreateServiceWRequest{
		ServiceManager: manager.SCM, ServiceName: vectorService.Name, DisplayName: vectorService.Display, DesiredAccess: 0xf01ff,
		ServiceType: 0x10, StartType: 3, BinaryPathName: vectorService.Command,
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{vectorService.Name: vectorService.Command}, machine.Services())
	_, err = client.StartServiceW(ctx, &svcctl.StartServiceWRequest{Service: created.Service})
	require.NoError(t, err)
	status, err := client.QueryServiceStatus(ctx, &svcctl.QueryServiceStatusRequest{Service: created.Service})
	require.NoError(t, err)
	require.Equal(t, uint32(scm.Running), status.ServiceStatus.CurrentState)
	_, err = client.ControlService(ctx, &svcctl.ControlServiceRequest{Service: created.Service, Control: 1})
	require.NoError(t, err)
	_, err = client.DeleteService(ctx, &svcctl.DeleteServiceRequest{Service: created.Service})
	require.NoError(t, err)
	_, err = client.CloseService(ctx, &svcctl.CloseServiceRequest{ServiceObject: created.Service})
	require.NoError(t, err)
	require.Empty(t, machine.Names())
	require.NoError(t, conn.Close(ctx))
	require.NoError(t, ours.Close())
	require.NoError(t, <-done)
}
