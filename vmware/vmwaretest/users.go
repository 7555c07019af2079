package vmwaretest

import (
	"reflect"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// user is who may log in, and what that user may do; nil privileges are all.
type user struct {
	password   string
	privileges []string
}

// AddUser adds a user, or changes one. Privileges are ids as "VirtualMachine.State.CreateSnapshot", on every object; nil are
// all. Those of the kind "System." everyone has.
func (s *Server) AddUser(name, password string, privileges []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = &user{password: password, privileges: slices.Clone(privileges)}
}

// Restrict makes the licence one that forbids changes by the API, as that of a free ESXi does.
func (s *Server) Restrict(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restricted = yes
}

func (s *Server) isRestricted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restricted
}

func (s *Server) mayLogin(req *types.Login) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[req.UserName]
	return u != nil && u.password == req.Password
}

// may reports whether a user has a privilege. Users that came by token are not known here, and have all.
func (s *Server) may(name, privilege string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	return u == nil || u.privileges == nil || len(privilege) > 7 && privilege[:7] == "System." || slices.Contains(u.privileges, privilege)
}

// privilegesOf is what calls need, by their names on the wire.
var privilegesOf = map[string][]string{
	"CreateSnapshot_Task":         {"VirtualMachine.State.CreateSnapshot"},
	"CreateSnapshotEx_Task":       {"VirtualMachine.State.CreateSnapshot"},
	"RemoveSnapshot_Task":         {"VirtualMachine.State.RemoveSnapshot"},
	"RemoveAllSnapshots_Task":     {"VirtualMachine.State.RemoveSnapshot"},
	"ConsolidateVMDisks_Task":     {"VirtualMachine.State.RemoveSnapshot"},
	"RevertToSnapshot_Task":       {"VirtualMachine.State.RevertToSnapshot"},
	"RenameSnapshot":              {"VirtualMachine.State.RenameSnapshot"},
	"QueryChangedDiskAreas":       {"VirtualMachine.Provisioning.DiskRandomRead"},
	"NfcGetVmFiles":               {"VirtualMachine.Provisioning.GetVmFiles"},
	"NfcRandomAccessOpenReadonly": {"VirtualMachine.Provisioning.DiskRandomRead"},
	"NfcRandomAccessOpenDisk":     {"VirtualMachine.Provisioning.DiskRandomAccess"},
	"ExportVm":                    {"VApp.Export"},
	"ExportSnapshot":              {"VApp.Export"},
	"ImportVApp":                  {"VApp.Import"},
	"PowerOnVM_Task":              {"VirtualMachine.Interact.PowerOn"},
	"PowerOffVM_Task":             {"VirtualMachine.Interact.PowerOff"},
	"CreateVM_Task":               {"VirtualMachine.Inventory.Create"},
	"Destroy_Task":                {"VirtualMachine.Inventory.Delete"},
	"RelocateVM_Task":             {"Resource.HotMigrate"},
	"CloneVM_Task":                {"VirtualMachine.Provisioning.Clone"},
	"RegisterVM_Task":             {"VirtualMachine.Inventory.Register"},
	"CreateNasDatastore":          {"Host.Config.Storage"},
	"RemoveDatastore":             {"Host.Config.Storage"},
	"UnregisterVM":                {"VirtualMachine.Inventory.Unregister"},
	"DisableMethods":              {"Global.DisableMethods"},
	"EnableMethods":               {"Global.EnableMethods"},
}

// specPrivileges is what a reconfiguration needs, by what it changes.
func specPrivileges(spec *types.VirtualMachineConfigSpec) (out []string) {
	if spec.ChangeTrackingEnabled != nil {
		out = append(out, "VirtualMachine.Config.ChangeTracking")
	}
	if len(spec.ExtraConfig) > 0 {
		out = append(out, "VirtualMachine.Config.AdvancedConfig")
	}
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		_, disk := change.Device.(*types.VirtualDisk)
		switch {
		case !disk:
			out = append(out, "VirtualMachine.Config.AddRemoveDevice")
		case change.Operation == types.VirtualDeviceConfigSpecOperationRemove:
			out = append(out, "VirtualMachine.Config.RemoveDisk")
		case change.Operation == types.VirtualDeviceConfigSpecOperationEdit:
			out = append(out, "VirtualMachine.Config.DiskExtend")
		case change.FileOperation == "":
			out = append(out, "VirtualMachine.Config.AddExistingDisk")
		default:
			out = append(out, "VirtualMachine.Config.AddNewDisk")
		}
	}
	return out
}

// authorizationCalls are the calls on the authorization manager.
type authorizationCalls struct{ overlaid }

// HasPrivilegeOnEntities says what a session's user may do.
func (c *authorizationCalls) HasPrivilegeOnEntities(ctx *simulator.Context, req *types.HasPrivilegeOnEntities) soap.HasFault {
	body := &methods.HasPrivilegeOnEntitiesBody{}
	name, ok := c.s.userOf(req.SessionId)
	if !ok {
		body.Fault_ = simulator.Fault("no such session", &types.InvalidArgument{InvalidProperty: "sessionId"})
		return body
	}
	body.Res = &types.HasPrivilegeOnEntitiesResponse{Returnval: c.s.granted(name, req.Entity, req.PrivId)}
	return body
}

// HasUserPrivilegeOnEntities says what a user may do.
func (c *authorizationCalls) HasUserPrivilegeOnEntities(_ *simulator.Context, req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	return &methods.HasUserPrivilegeOnEntitiesBody{
		Res: &types.HasUserPrivilegeOnEntitiesResponse{Returnval: c.s.granted(req.UserName, req.Entities, req.PrivId)},
	}
}

// FetchUserPrivilegeOnEntities lists what a user may do.
func (c *authorizationCalls) FetchUserPrivilegeOnEntities(_ *simulator.Context, req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	res := &types.FetchUserPrivilegeOnEntitiesResponse{}
	for _, e := range req.Entities {
		res.Returnval = append(res.Returnval, types.UserPrivilegeResult{Entity: e, Privileges: c.s.privilegeList(req.UserName)})
	}
	return &methods.FetchUserPrivilegeOnEntitiesBody{Res: res}
}

func (s *Server) granted(name string, entities []types.ManagedObjectReference, ids []string) (out []types.EntityPrivilege) {
	for _, e := range entities {
		p := types.EntityPrivilege{Entity: e}
		for _, id := range ids {
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: s.may(name, id)})
		}
		out = append(out, p)
	}
	return out
}

func (s *Server) privilegeList(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[name]; u != nil && u.privileges != nil {
		return append([]string{"System.Anonymous", "System.Read", "System.View"}, u.privileges...)
	}
	all := map[string]bool{"System.Anonymous": true, "System.Read": true, "System.View": true}
	for _, list := range privilegesOf {
		for _, p := range list {
			all[p] = true
		}
	}
	var out []string
	for p := range all {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Requests that vSphere's published bindings lack.
type (
	// DisableMethods keeps everyone from calling methods of entities.
	DisableMethods struct {
		This   types.ManagedObjectReference   `xml:"_this"`
		Entity []types.ManagedObjectReference `xml:"entity"`
		Method []DisabledMethod               `xml:"method"`
		Source string                         `xml:"sourceId"`
		Scope  bool                           `xml:"sessionScope,omitempty"`
	}
	// DisabledMethod is one of them.
	DisabledMethod struct {
		Method string `xml:"method"`
		Reason string `xml:"reasonId"`
	}
	// EnableMethods takes that back.
	EnableMethods struct {
		This   types.ManagedObjectReference   `xml:"_this"`
		Entity []types.ManagedObjectReference `xml:"entity"`
		Method []string                       `xml:"method"`
		Source string                         `xml:"sourceId"`
	}
	// DisableMethodsResponse has nothing in it.
	DisableMethodsResponse struct{}
	// EnableMethodsResponse has nothing in it.
	EnableMethodsResponse struct{}
)

// The simulator finds requests by name in this global table, and there is no other way to teach it one.
func init() {
	types.Add("DisableMethods", reflect.TypeFor[DisableMethods]())
	types.Add("EnableMethods", reflect.TypeFor[EnableMethods]())
}

type disableMethodsBody struct {
	Res    *DisableMethodsResponse `xml:"urn:vim25 DisableMethodsResponse,omitempty"`
	Fault_ *soap.Fault             `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault implements soap.HasFault.
func (b *disableMethodsBody) Fault() *soap.Fault { return b.Fault_ }

type enableMethodsBody struct {
	Res    *EnableMethodsResponse `xml:"urn:vim25 EnableMethodsResponse,omitempty"`
	Fault_ *soap.Fault            `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault implements soap.HasFault.
func (b *enableMethodsBody) Fault() *soap.Fault { return b.Fault_ }

// DisableMethods keeps everyone from calling methods of VMs, until whoever did it takes it back.
func (c *authorizationCalls) DisableMethods(_ *simulator.Context, req *DisableMethods) soap.HasFault {
	for _, e := range req.Entity {
		v := c.s.VMByRef(e)
		if v == nil {
			return &disableMethodsBody{Fault_: simulator.Fault("", &types.ManagedObjectNotFound{Obj: e})}
		}
		v.mu.Lock()
		for _, m := range req.Method {
			v.disabled[m.Method] = req.Source
		}
		v.publish(c.s.context())
		v.mu.Unlock()
	}
	return &disableMethodsBody{Res: &DisableMethodsResponse{}}
}

// EnableMethods takes that back. What another source disabled stays so.
func (c *authorizationCalls) EnableMethods(_ *simulator.Context, req *EnableMethods) soap.HasFault {
	for _, e := range req.Entity {
		v := c.s.VMByRef(e)
		if v == nil {
			return &enableMethodsBody{Fault_: simulator.Fault("", &types.ManagedObjectNotFound{Obj: e})}
		}
		v.mu.Lock()
		for _, m := range req.Method {
			if v.disabled[m] == req.Source {
				delete(v.disabled, m)
			}
		}
		v.publish(c.s.context())
		v.mu.Unlock()
	}
	return &enableMethodsBody{Res: &EnableMethodsResponse{}}
}

func (v *VM) isDisabled(method string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, yes := v.disabled[method]
	return yes
}
