package nfcsoap

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// nameBytes bounds the name of a managed object that a server may give.
const nameBytes = 256

// Find returns the managed object of a server's ticket service. On ESXi the server is asked, and what it does not say is the name
// that is fixed for its kind; on vCenter the name is always that one, since there another is not accepted.
func Find(ctx context.Context, c *vim25.Client) (types.ManagedObjectReference, error) {
	if c.IsVC() {
		return OfVCenter, nil
	}
	body := InternalContentBody{Req: &retrieveInternalContent{This: vim25.ServiceInstance}}
	var answer InternalContentBody
	if err := c.RoundTrip(ctx, &body, &answer); err != nil {
		if soap.IsSoapFault(err) {
			return OfHost, nil
		}
		return OfHost, fmt.Errorf("the ticket service's object: %w", err)
	}
	if answer.Res == nil || answer.Res.Returnval.NfcService == nil {
		return OfHost, nil
	}
	got := *answer.Res.Returnval.NfcService
	if got.Type != Service || got.Value == "" || len(got.Value) > nameBytes {
		return OfHost, fmt.Errorf("the ticket service's object: the server names %.64q of type %.64q", got.Value, got.Type)
	}
	return got, nil
}

// GetVMFiles asks for a ticket that reads the disks of a VM. host may be empty: the server chooses one.
func GetVMFiles(ctx context.Context, r soap.RoundTripper, service, vm, host types.ManagedObjectReference) (*types.HostServiceTicket, error) {
	req := NfcGetVmFilesBody{Req: &NfcGetVmFiles{This: service, Vm: vm, Host: optional(host)}}
	var res NfcGetVmFilesBody
	if err := r.RoundTrip(ctx, &req, &res); err != nil {
		return nil, err
	}
	return ticket(res.Res)
}

// OpenReadonly asks for a ticket that reads the disk with that device key. host may be empty.
func OpenReadonly(ctx context.Context, r soap.RoundTripper, service, vm types.ManagedObjectReference, disk int32, host types.ManagedObjectReference) (*types.HostServiceTicket, error) {
	req := NfcRandomAccessOpenReadonlyBody{Req: &NfcRandomAccessOpenReadonly{This: service, Vm: vm, DiskDeviceKey: disk, Host: optional(host)}}
	var res NfcRandomAccessOpenReadonlyBody
	if err := r.RoundTrip(ctx, &req, &res); err != nil {
		return nil, err
	}
	return ticket(res.Res)
}

// OpenDisk asks for a ticket that reads and writes the disk with that device key. host may be empty.
func OpenDisk(ctx context.Context, r soap.RoundTripper, service, vm types.ManagedObjectReference, disk int32, host types.ManagedObjectReference) (*types.HostServiceTicket, error) {
	req := NfcRandomAccessOpenDiskBody{Req: &NfcRandomAccessOpenDisk{This: service, Vm: vm, DiskDeviceKey: disk, Host: optional(host)}}
	var res NfcRandomAccessOpenDiskBody
	if err := r.RoundTrip(ctx, &req, &res); err != nil {
		return nil, err
	}
	return ticket(res.Res)
}

func optional(ref types.ManagedObjectReference) *types.ManagedObjectReference {
	if ref.Value == "" {
		return nil
	}
	return &ref
}

// ticket takes what a client needs to be there at all.
func ticket(res *TicketResponse) (*types.HostServiceTicket, error) {
	if res == nil || res.Returnval.SessionId == "" {
		return nil, fmt.Errorf("the server answered a ticket without a session id")
	}
	if t := &res.Returnval; t.Port < 0 || t.Port > 65535 || len(t.Host) > nameBytes || len(t.SessionId) > 4096 || len(t.Service) > nameBytes {
		return nil, fmt.Errorf("the server answered a ticket for port %d of host %.64q, with a session id of %d characters", t.Port, t.Host, len(t.SessionId))
	}
	return &res.Returnval, nil
}
