package vmwaretest

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// dress makes hosts and datastores say what real ones say.
func (s *Server) dress() {
	for _, e := range s.reg.All("HostSystem") {
		host := e.(*simulator.HostSystem)
		if host.Config != nil {
			config := *host.Config
			config.Product.Build = s.opts.Build
			host.Config = &config
		}
		if host.Summary.Config.Product != nil {
			product := *host.Summary.Config.Product
			product.Build = s.opts.Build
			host.Summary.Config.Product = &product
		}
	}
	for _, e := range s.reg.All("Datastore") {
		ds := e.(*simulator.Datastore)
		ds.Summary.Type = "VMFS"
	}
	s.dressGuests()
}

// machines makes the VMs, spread over hosts and datastores.
func (s *Server) machines() error {
	hosts, stores := s.reg.All("HostSystem"), s.reg.All("Datastore")
	sortBy(hosts, func(e mo.Entity) string { return e.Reference().Value })
	sortBy(stores, func(e mo.Entity) string { return e.(*simulator.Datastore).Name })
	for i := range s.opts.VMs {
		name := fmt.Sprintf("web%d", i)
		host := hosts[i%len(hosts)].(*simulator.HostSystem)
		store := stores[i%len(stores)].(*simulator.Datastore)
		if err := s.machine(name, host, store); err != nil {
			return fmt.Errorf("VM %s: %w", name, err)
		}
	}
	return nil
}

func (s *Server) machine(name string, host *simulator.HostSystem, store *simulator.Datastore) error {
	ctx := s.context()
	spec := s.spec(name, store.Name)
	pool, folder, err := s.home(host)
	if err != nil {
		return err
	}
	body := folder.CreateVMTask(ctx, &types.CreateVM_Task{This: folder.Self, Config: *spec, Pool: pool, Host: &host.Self})
	created, ok := body.(*methods.CreateVM_TaskBody)
	if !ok || created.Res == nil {
		return fmt.Errorf("create: %v", body.Fault())
	}
	info, err := s.settled(created.Res.Returnval)
	if err != nil {
		return err
	}
	ref, ok := info.Result.(types.ManagedObjectReference)
	if !ok {
		return fmt.Errorf("create: %v", info.Error)
	}
	v, err := s.adopt(ref, nil)
	if err != nil {
		return err
	}
	if s.opts.PoweredOff {
		return nil
	}
	return v.PowerOn()
}

// home is where VMs of a host live.
func (s *Server) home(host *simulator.HostSystem) (pool types.ManagedObjectReference, folder *simulator.Folder, err error) {
	for _, e := range s.reg.All("ResourcePool") {
		if p := e.(*simulator.ResourcePool); p.Parent != nil && host.Parent != nil && *p.Parent == *host.Parent {
			pool = p.Self
		}
	}
	for _, e := range s.reg.All("Datacenter") {
		folder, _ = s.reg.Get(e.(*simulator.Datacenter).VmFolder).(*simulator.Folder)
	}
	if pool.Value == "" || folder == nil {
		return pool, nil, fmt.Errorf("host %s has no pool or no folder", host.Self.Value)
	}
	return pool, folder, nil
}

// spec is a machine with its disks on SCSI, fifteen to a controller.
func (s *Server) spec(name, store string) *types.VirtualMachineConfigSpec {
	spec := &types.VirtualMachineConfigSpec{
		Name: name, GuestId: string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest), NumCPUs: 2, MemoryMB: 2048,
		Version: "vmx-19", Files: &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s]", store)},
	}
	var devices object.VirtualDeviceList
	nic := esx.EthernetCard
	for i := range s.opts.DisksPerVM {
		if i%15 == 0 {
			c, _ := object.VirtualDeviceList{}.CreateSCSIController("pvscsi")
			c.GetVirtualDevice().Key = int32(1000 + i/15)
			c.(*types.ParaVirtualSCSIController).BusNumber = int32(i / 15)
			devices = append(devices, c)
		}
		unit := int32(i % 15)
		if unit >= 7 {
			unit++ // the controller's own
		}
		file := fmt.Sprintf("[%s] %s/%s.vmdk", store, name, diskName(name, i))
		devices = append(devices, &types.VirtualDisk{
			CapacityInBytes: s.opts.DiskBytes, CapacityInKB: s.opts.DiskBytes >> 10,
			VirtualDevice: types.VirtualDevice{
				Key: int32(2000 + 16*(i/15) + int(unit)), ControllerKey: int32(1000 + i/15), UnitNumber: &unit,
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file},
					DiskMode:                     string(types.VirtualDiskModePersistent),
					ThinProvisioned:              types.NewBool(!s.opts.Thick),
				},
			},
		})
	}
	devices = append(devices, &nic)
	spec.DeviceChange, _ = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	for _, c := range spec.DeviceChange { // keys as given: the helper makes them up
		if _, ok := c.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk); ok {
			c.GetVirtualDeviceConfigSpec().FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
		}
	}
	return spec
}

func diskName(vm string, i int) string {
	if i == 0 {
		return vm
	}
	return fmt.Sprintf("%s_%d", vm, i)
}

func sortBy[T any](list []T, key func(T) string) {
	slices.SortFunc(list, func(a, b T) int {
		switch x, y := key(a), key(b); {
		case len(x) != len(y) && x != y:
			return len(x) - len(y)
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}
