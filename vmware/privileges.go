package vmware

import (
	"context"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// What privileges are for, beside the names of transports.
const (
	ForBackup     = "backup"
	ForTracking   = "tracking"
	ForRelocation = "relocation" // to keep a VM where it is while it is read
	ForEncrypted  = "encrypted"
	ForLicence    = "licence"
	ForGuest      = "guest"
	ForRestore    = "restore"
	ForStart      = "start" // beside those of restore: to start a VM from a point at once, and to move it
)

// Where a privilege is wanted.
const (
	OnVM        = "VM"
	OnProxy     = "proxy VM"
	OnDatastore = "datastore"
	OnRoot      = "root folder"
	OnWhere     = "folder, resource pool and network of the restored VM"
	OnHost      = "host"
)

// Privilege is one that the server grants to users by roles.
type Privilege struct {
	ID   string // as the API has it; the client's words for it are in Name
	Name string
	On   string // one of the On… constants
	For  []string
}

// Privileges are all that is ever asked for, and what for. A user needs those of "backup", and those of one transport.
//
// The list is made from VMware's documentation of each call. It was checked against no real server yet.
func Privileges() []Privilege { return slices.Clone(privileges) }

var network = []string{NBDSSL, NBD, VDDK}

var privileges = []Privilege{
	{"System.View", "(in every role)", OnVM, []string{ForBackup}},
	{"System.Read", "(in every role but No access)", OnVM, []string{ForBackup}},
	{"VirtualMachine.State.CreateSnapshot", "Snapshot management: Create snapshot", OnVM, []string{ForBackup}},
	{"VirtualMachine.State.RemoveSnapshot", "Snapshot management: Remove snapshot", OnVM, []string{ForBackup}},
	{"VirtualMachine.Config.ChangeTracking", "Change configuration: Toggle disk change tracking", OnVM, []string{ForTracking}},
	{"VirtualMachine.Provisioning.DiskRandomRead", "Provisioning: Allow read-only disk access", OnVM, network},
	{"VirtualMachine.Provisioning.GetVmFiles", "Provisioning: Allow virtual machine download", OnVM, network},
	{"VirtualMachine.Config.DiskLease", "Change configuration: Acquire disk lease", OnVM, []string{VDDK}},
	{"Sessions.ValidateSession", "Sessions: Validate session", OnRoot, []string{VDDK}},
	{"VirtualMachine.Config.AddExistingDisk", "Change configuration: Add existing disk", OnProxy, []string{HotAdd}},
	{"VirtualMachine.Config.RemoveDisk", "Change configuration: Remove disk", OnProxy, []string{HotAdd}},
	{"VirtualMachine.Config.AddRemoveDevice", "Change configuration: Add or remove device", OnProxy, []string{HotAdd}},
	{"Datastore.Browse", "Datastore: Browse datastore", OnDatastore, []string{HTTPS, NFS}},
	{"Datastore.FileManagement", "Datastore: Low level file operations", OnDatastore, []string{HTTPS, HotAdd, ForRestore}},
	{"VApp.Export", "vApp: Export", OnVM, []string{Export}},
	{"Global.DisableMethods", "Global: Disable methods", OnVM, []string{ForRelocation}},
	{"Global.EnableMethods", "Global: Enable methods", OnVM, []string{ForRelocation}},
	{"Global.Licenses", "Global: Licenses", OnRoot, []string{ForLicence}},
	{"Cryptographer.Access", "Cryptographic operations: Direct access", OnVM, []string{ForEncrypted}},
	{"VirtualMachine.GuestOperations.Query", "Guest operations: Guest operation queries", OnVM, []string{ForGuest}},
	{"VirtualMachine.GuestOperations.Modify", "Guest operations: Guest operation modifications", OnVM, []string{ForGuest}},
	{"VirtualMachine.GuestOperations.Execute", "Guest operations: Guest operation program execution", OnVM, []string{ForGuest}},
	{"VirtualMachine.Provisioning.DiskRandomAccess", "Provisioning: Allow disk access", OnVM, []string{ForRestore}},
	{"VirtualMachine.Provisioning.PutVmFiles", "Provisioning: Allow virtual machine files upload", OnVM, []string{ForRestore}},
	{"VirtualMachine.Interact.PowerOff", "Interaction: Power off", OnVM, []string{ForRestore}},
	{"VirtualMachine.Interact.PowerOn", "Interaction: Power on", OnVM, []string{ForRestore}},
	{"VirtualMachine.Config.AddNewDisk", "Change configuration: Add new disk", OnWhere, []string{ForRestore}},
	{"VirtualMachine.Config.AdvancedConfig", "Change configuration: Advanced configuration", OnWhere, []string{ForRestore}},
	{"VirtualMachine.Inventory.Create", "Edit inventory: Create new", OnWhere, []string{ForRestore}},
	{"VirtualMachine.Inventory.Delete", "Edit inventory: Remove", OnWhere, []string{ForRestore}},
	{"Resource.AssignVMToPool", "Resource: Assign virtual machine to resource pool", OnWhere, []string{ForRestore}},
	{"Network.Assign", "Network: Assign network", OnWhere, []string{ForRestore}},
	{"Datastore.AllocateSpace", "Datastore: Allocate space", OnDatastore, []string{ForRestore}},
	{"Host.Config.Storage", "Host configuration: Storage partition configuration", OnHost, []string{ForStart}},
	{"VirtualMachine.Inventory.Unregister", "Edit inventory: Unregister", OnWhere, []string{ForStart}},
	{"Resource.ColdMigrate", "Resource: Migrate powered off virtual machine", OnWhere, []string{ForStart}},
	{"Resource.HotMigrate", "Resource: Migrate powered on virtual machine", OnWhere, []string{ForStart}},
	{"VirtualMachine.Config.AddExistingDisk", "Change configuration: Add existing disk", OnWhere, []string{ForStart}},
	{"VirtualMachine.Config.RemoveDisk", "Change configuration: Remove disk", OnWhere, []string{ForStart}},
}

// missingPrivilege is one that the user lacks on an object.
type missingPrivilege struct {
	Privilege
	object types.ManagedObjectReference
}

// lacking asks which privileges the user of this session lacks.
func (c *Client) lacking(ctx context.Context, objects map[string][]types.ManagedObjectReference, wanted []Privilege) ([]missingPrivilege, error) {
	var out []missingPrivilege
	for _, on := range []string{OnVM, OnProxy, OnDatastore, OnRoot, OnWhere} {
		var ask []Privilege
		for _, p := range wanted {
			if p.On == on {
				ask = append(ask, p)
			}
		}
		if len(ask) == 0 || len(objects[on]) == 0 {
			continue
		}
		missing, err := c.askPrivileges(ctx, objects[on], ask)
		if err != nil {
			return nil, err
		}
		out = append(out, missing...)
	}
	return out, nil
}

func (c *Client) askPrivileges(ctx context.Context, objects []types.ManagedObjectReference, ask []Privilege) ([]missingPrivilege, error) {
	ids := make([]string, len(ask))
	for i, p := range ask {
		ids[i] = p.ID
	}
	granted, err := c.granted(ctx, objects, ids)
	if err != nil {
		return nil, err
	}
	var out []missingPrivilege
	for _, object := range objects {
		for _, p := range ask {
			// What the server says nothing about is not granted.
			if !granted[grant{object, p.ID}] {
				out = append(out, missingPrivilege{Privilege: p, object: object})
			}
		}
	}
	return out, nil
}

type grant struct {
	object types.ManagedObjectReference
	id     string
}

// granted asks by the session first, which every server knows, and by the user's name where that is not to be had.
func (c *Client) granted(ctx context.Context, objects []types.ManagedObjectReference, ids []string) (map[grant]bool, error) {
	manager := c.vim.ServiceContent.AuthorizationManager
	if manager == nil {
		return nil, fmt.Errorf("the server has no authorization manager")
	}
	key, user := c.login.session()
	var answer []types.EntityPrivilege
	res, err := methods.HasPrivilegeOnEntities(ctx, c.vim, &types.HasPrivilegeOnEntities{This: *manager, Entity: objects, SessionId: key, PrivId: ids})
	switch {
	case err == nil:
		answer = res.Returnval
	case cannot(err):
		res, err := methods.HasUserPrivilegeOnEntities(ctx, c.vim, &types.HasUserPrivilegeOnEntities{
			This: *manager, Entities: objects, UserName: user, PrivId: ids})
		if err != nil {
			return nil, err
		}
		answer = res.Returnval
	default:
		return nil, err
	}
	out := map[grant]bool{}
	for _, e := range answer {
		for _, p := range e.PrivAvailability {
			out[grant{e.Entity, p.PrivId}] = p.IsGranted
		}
	}
	return out, nil
}
