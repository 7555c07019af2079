package vmwaretest

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/vmware/internal/nfcsoap"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ticketService is the managed object that hands out tickets for the network disk service.
type ticketService struct {
	mo.ExtensibleManagedObject // what the simulator's properties want to find first
	disks                      *diskService
}

// Lock and Unlock make the simulator take no lock around a call.
func (t *ticketService) Lock()   {}
func (t *ticketService) Unlock() {}

// NfcGetVmFiles implements the API's method: a ticket that reads any disk file of a VM.
func (t *ticketService) NfcGetVmFiles(ctx *simulator.Context, req *nfcsoap.NfcGetVmFiles) soap.HasFault {
	body := new(nfcsoap.NfcGetVmFilesBody)
	body.Res, body.Fault_ = t.ticket(ctx, access{vm: req.Vm, host: req.Host})
	return body
}

// NfcRandomAccessOpenReadonly implements the API's method: a ticket that reads one disk.
func (t *ticketService) NfcRandomAccessOpenReadonly(ctx *simulator.Context, req *nfcsoap.NfcRandomAccessOpenReadonly) soap.HasFault {
	body := new(nfcsoap.NfcRandomAccessOpenReadonlyBody)
	body.Res, body.Fault_ = t.ticket(ctx, access{vm: req.Vm, disk: req.DiskDeviceKey, host: req.Host})
	return body
}

// NfcRandomAccessOpenDisk implements the API's method: a ticket that reads and writes one disk. That the VM is off is looked at
// when the disk is opened, as the host does that has the locks.
func (t *ticketService) NfcRandomAccessOpenDisk(ctx *simulator.Context, req *nfcsoap.NfcRandomAccessOpenDisk) soap.HasFault {
	body := new(nfcsoap.NfcRandomAccessOpenDiskBody)
	body.Res, body.Fault_ = t.ticket(ctx, access{vm: req.Vm, disk: req.DiskDeviceKey, host: req.Host, write: true})
	return body
}

// access is what a ticket allows.
type access struct {
	vm    types.ManagedObjectReference
	disk  int32 // device key; zero: all disks, and those of snapshots
	host  *types.ManagedObjectReference
	write bool
}

func (t *ticketService) ticket(ctx *simulator.Context, a access) (*nfcsoap.TicketResponse, *soap.Fault) {
	fault := t.refuse(ctx, a)
	if fault != nil {
		return nil, simulator.Fault("", fault)
	}
	ticket, err := t.disks.admit(a)
	if err != nil {
		return nil, simulator.Fault(err.Error(), &types.HostCommunication{})
	}
	return &nfcsoap.TicketResponse{Returnval: ticket}, nil
}

// refuse looks whether the ticket makes sense.
func (t *ticketService) refuse(ctx *simulator.Context, a access) types.BaseMethodFault {
	vm, ok := ctx.Map.Get(a.vm).(*simulator.VirtualMachine)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: a.vm}
	}
	var host *types.ManagedObjectReference
	found := a.disk == 0
	ctx.WithLock(vm, func() {
		host = vm.Runtime.Host
		found = found || slices.ContainsFunc(vm.Config.Hardware.Device, func(d types.BaseVirtualDevice) bool {
			disk, ok := d.(*types.VirtualDisk)
			return ok && disk.Key == a.disk
		})
	})
	if !found {
		return &types.InvalidArgument{InvalidProperty: "diskDeviceKey"}
	}
	if a.host != nil && (host == nil || *host != *a.host) {
		return &types.InvalidArgument{InvalidProperty: "hostForAccess"}
	}
	return nil
}

// serviceInstance is the simulator's, which names the ticket service as its kind of server does.
type serviceInstance struct {
	*simulator.ServiceInstance
	service types.ManagedObjectReference
}

// RetrieveInternalContent implements the API's method. The simulator's type of the request is its own.
func (s *serviceInstance) RetrieveInternalContent(any) soap.HasFault {
	return &nfcsoap.InternalContentBody{Res: &nfcsoap.InternalContentResponse{
		Returnval: nfcsoap.InternalContent{NfcService: &s.service},
	}}
}

// open opens a file as the ticket allows: of the VM's own disks, what they stand on, and what its snapshots pin.
func (a access) open(s *Server, file string, write bool) (*Image, error) {
	v := s.VMByRef(a.vm)
	if v == nil {
		return nil, fs.ErrNotExist
	}
	if write && !a.write {
		return nil, fs.ErrPermission
	}
	for _, d := range v.Disks() {
		if a.disk != 0 && d.Device() != a.disk {
			continue
		}
		if img, err := d.Open(file, write); !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
	}
	return nil, fs.ErrNotExist
}
