package nfcsoap

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// service answers like the managed object that the simulator lacks, and keeps what it was asked.
type service struct {
	Self   types.ManagedObjectReference
	ticket types.HostServiceTicket
	asked  []any
}

func (s *service) Reference() types.ManagedObjectReference { return s.Self }

func (s *service) answer(req any) *TicketResponse {
	s.asked = append(s.asked, req)
	return &TicketResponse{Returnval: s.ticket}
}

func (s *service) NfcGetVmFiles(req *NfcGetVmFiles) soap.HasFault {
	return &NfcGetVmFilesBody{Res: s.answer(req)}
}

func (s *service) NfcRandomAccessOpenReadonly(req *NfcRandomAccessOpenReadonly) soap.HasFault {
	return &NfcRandomAccessOpenReadonlyBody{Res: s.answer(req)}
}

func (s *service) NfcRandomAccessOpenDisk(req *NfcRandomAccessOpenDisk) soap.HasFault {
	return &NfcRandomAccessOpenDiskBody{Res: s.answer(req)}
}

// serve starts a simulator with the service in it, and logs in over its wire.
func serve(t *testing.T, model *simulator.Model, ref types.ManagedObjectReference) (*govmomi.Client, *service) {
	t.Helper()
	require.NoError(t, model.Create())
	model.Service.TLS = new(tls.Config)
	s := &service{Self: ref, ticket: types.HostServiceTicket{Host: "h", Port: 902, Service: "nfc", SessionId: "s"}}
	model.Map().Put(s)
	server := model.Service.NewServer()
	t.Cleanup(func() { server.Close(); model.Remove() })
	c, err := govmomi.NewClient(t.Context(), server.URL, true)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Logout(context.WithoutCancel(t.Context())) })
	return c, s
}

// TestTickets: each call arrives with what was said, and brings the ticket back.
func TestTickets(t *testing.T) {
	c, s := serve(t, simulator.VPX(), OfVCenter)
	ref, err := Find(t.Context(), c.Client)
	require.NoError(t, err)
	require.Equal(t, OfVCenter, ref)
	vm := types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-7"}
	host := types.ManagedObjectReference{Type: "HostSystem", Value: "host-1"}
	for _, call := range []func() (*types.HostServiceTicket, error){
		func() (*types.HostServiceTicket, error) {
			return GetVMFiles(t.Context(), c, ref, vm, types.ManagedObjectReference{})
		},
		func() (*types.HostServiceTicket, error) { return OpenReadonly(t.Context(), c, ref, vm, 2000, host) },
		func() (*types.HostServiceTicket, error) { return OpenDisk(t.Context(), c, ref, vm, 2001, host) },
	} {
		got, err := call()
		require.NoError(t, err)
		require.Equal(t, s.ticket, *got)
	}
	require.Equal(t, []any{
		&NfcGetVmFiles{This: ref, Vm: vm},
		&NfcRandomAccessOpenReadonly{This: ref, Vm: vm, DiskDeviceKey: 2000, Host: &host},
		&NfcRandomAccessOpenDisk{This: ref, Vm: vm, DiskDeviceKey: 2001, Host: &host},
	}, s.asked)
	_, err = GetVMFiles(t.Context(), c, OfHost, vm, host)
	require.True(t, soap.IsSoapFault(err), "a service of another kind is none: %v", err)
}

// TestFindOnHost: a host names its service itself.
func TestFindOnHost(t *testing.T) {
	c, _ := serve(t, simulator.ESX(), OfHost)
	ref, err := Find(t.Context(), c.Client)
	require.NoError(t, err)
	require.Equal(t, types.ManagedObjectReference{Type: Service, Value: "NfcService"}, ref, "as the plain simulator calls it")
}

// TestHostileTickets: what a server says is not used before it was looked at.
func TestHostileTickets(t *testing.T) {
	c, s := serve(t, simulator.VPX(), OfVCenter)
	for name, ticket := range map[string]types.HostServiceTicket{
		"no session":    {Host: "h", Port: 902},
		"port":          {Port: 70000, SessionId: "s"},
		"negative port": {Port: -1, SessionId: "s"},
		"long host":     {Host: strings.Repeat("h", 300), SessionId: "s"},
		"long session":  {SessionId: strings.Repeat("s", 5000)},
		"long service":  {SessionId: "s", Service: strings.Repeat("n", 300)},
	} {
		s.ticket = ticket
		_, err := GetVMFiles(t.Context(), c, OfVCenter, types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-7"}, types.ManagedObjectReference{})
		require.Error(t, err, name)
	}
}
