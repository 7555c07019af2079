package vmware

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// checked is a VM of a simulator that the test can change.
type checked struct {
	*front
	c  *Client
	vm types.ManagedObjectReference
}

func newChecked(t *testing.T, model *simulator.Model) *checked {
	f := newFront(t, model)
	k := &checked{front: f, c: f.connect(t, ConnectOptions{})}
	k.vm = k.c.someVM(t)
	k.set(func(vm *simulator.VirtualMachine) {
		vm.Capability.ChangeTrackingSupported = true
		vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	})
	k.roomOn(1<<40, 1<<39)
	return k
}

func (k *checked) set(change func(vm *simulator.VirtualMachine)) {
	vm := k.model.Map().Get(k.vm).(*simulator.VirtualMachine)
	k.model.Map().WithLock(k.model.Service.Context, k.vm, func() { change(vm) })
}

func (k *checked) roomOn(capacity, free int64) {
	for _, ref := range k.model.Map().All("Datastore") {
		ds := k.model.Map().Get(ref.Reference()).(*simulator.Datastore)
		k.model.Map().WithLock(k.model.Service.Context, ds.Self, func() { ds.Summary.Capacity, ds.Summary.FreeSpace = capacity, free })
	}
}

func (k *checked) look(t *testing.T, opts *PreflightOptions) *Preflight {
	t.Helper()
	p, err := k.c.Preflight(t.Context(), k.vm, opts)
	require.NoError(t, err)
	return p
}

// says finds the finding about something.
func says(p *Preflight, what string) *Finding {
	for _, f := range p.Findings {
		if strings.Contains(f.What, what) {
			return &f
		}
	}
	return nil
}

func TestPreflightOfWhatIsWell(t *testing.T) {
	for name, model := range map[string]*simulator.Model{"vCenter": small(), "ESXi": simulator.ESX()} {
		t.Run(name, func(t *testing.T) {
			k := newChecked(t, model)
			k.on(nil)
			p := k.look(t, nil)
			assert.True(t, p.OK(), "%v", p)
			require.NoError(t, p.Err())
			assert.Empty(t, p.Findings)
			assert.Equal(t, TrackingPossible, p.Tracking)
			require.Len(t, p.Disks, 1)
			assert.NotZero(t, p.Disks[0].Size)
			for call := range k.calls {
				assert.True(t, isRead(call), "%s: nothing is touched", call)
			}
		})
	}
}

func TestPreflightFinds(t *testing.T) {
	k := newChecked(t, small())
	type finding struct {
		severity Severity
		what     string
		change   func(vm *simulator.VirtualMachine)
		opts     *PreflightOptions
	}
	flat := func(vm *simulator.VirtualMachine) *types.VirtualDiskFlatVer2BackingInfo {
		for _, d := range vm.Config.Hardware.Device {
			if disk, ok := d.(*types.VirtualDisk); ok {
				return disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			}
		}
		return nil
	}
	for _, f := range []finding{
		{Stop, "it is disconnected", func(vm *simulator.VirtualMachine) { vm.Runtime.ConnectionState = "disconnected" }, nil},
		{Stop, "it is a template", func(vm *simulator.VirtualMachine) { vm.Config.Template = true }, nil},
		{Weak, "it is suspended", func(vm *simulator.VirtualMachine) { vm.Runtime.PowerState = "suspended" }, nil},
		{Stop, "it waits for an answer: Copied", func(vm *simulator.VirtualMachine) {
			vm.Runtime.Question = &types.VirtualMachineQuestionInfo{Text: "Copied or moved?"}
		}, nil},
		{Weak, "Fault Tolerance", func(vm *simulator.VirtualMachine) { vm.Runtime.FaultToleranceState = "running" }, nil},
		{Note, "it is encrypted", func(vm *simulator.VirtualMachine) { vm.Config.KeyId = &types.CryptoKeyId{KeyId: "k"} }, nil},
		{Stop, "has snapshots of it disabled", func(vm *simulator.VirtualMachine) { vm.DisabledMethod = []string{"CreateSnapshot_Task"} }, nil},
		{Weak, "hardware version is 4", func(vm *simulator.VirtualMachine) { vm.Config.Version = "vmx-04" }, nil},
		{Weak, "its host tracks no changes", func(vm *simulator.VirtualMachine) { vm.Capability.ChangeTrackingSupported = false }, nil},
		{Note, "has no id for this disk yet", func(vm *simulator.VirtualMachine) { vm.Config.ChangeTrackingEnabled = types.NewBool(true) }, nil},
		{Weak, "is to be kept so", func(*simulator.VirtualMachine) {}, &PreflightOptions{KeepTracking: true}},
		{Weak, "need consolidation", func(vm *simulator.VirtualMachine) { vm.Runtime.ConsolidationNeeded = true }, nil},
		{Weak, "VMware Tools do not run", func(vm *simulator.VirtualMachine) { vm.Guest.ToolsRunningStatus = "guestToolsNotRunning" }, nil},
		{Stop, "quiescing is required", func(vm *simulator.VirtualMachine) { vm.Guest.ToolsRunningStatus = "guestToolsNotRunning" }, &PreflightOptions{Quiesce: RequireQuiesce}},
		{Weak, "it is left out: it is independent", func(vm *simulator.VirtualMachine) {
			flat(vm).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
		}, nil},
		{Stop, "covers none of its disks", func(vm *simulator.VirtualMachine) {
			flat(vm).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
		}, nil},
		{Stop, "expected to need", func(*simulator.VirtualMachine) {}, &PreflightOptions{DeltaBytes: 1 << 50}},
		{Stop, "less than 60 %", func(*simulator.VirtualMachine) {}, &PreflightOptions{FreePercent: 60}},
		{Note, "stands on 2 snapshots", snapshotsInARow(2), nil},
		{Weak, "must not be enabled while there are snapshots", snapshotsInARow(2), nil},
		{Weak, "30 snapshots in a row", snapshotsInARow(30), nil},
		{Stop, "32 snapshots in a row", snapshotsInARow(32), nil},
	} {
		t.Run(f.what, func(t *testing.T) {
			var was simulator.VirtualMachine
			var mode string
			k.set(func(vm *simulator.VirtualMachine) {
				was.Runtime, was.Capability, was.Guest, was.DisabledMethod, was.Snapshot = vm.Runtime, vm.Capability, vm.Guest, vm.DisabledMethod, vm.Snapshot
				config, guest := *vm.Config, *vm.Guest
				was.Config, mode = &config, flat(vm).DiskMode
				vm.Guest = &guest
				f.change(vm)
			})
			defer k.set(func(vm *simulator.VirtualMachine) {
				vm.Runtime, vm.Capability, vm.Guest, vm.DisabledMethod, vm.Snapshot = was.Runtime, was.Capability, was.Guest, was.DisabledMethod, was.Snapshot
				*vm.Config = *was.Config
				flat(vm).DiskMode = mode
			})
			p := k.look(t, f.opts)
			found := says(p, f.what)
			require.NotNil(t, found, "%v", p)
			assert.Equal(t, f.severity, found.Severity)
			assert.NotEmpty(t, found.Object)
			if f.severity == Stop {
				assert.False(t, p.OK())
				var e *PreflightError
				require.ErrorAs(t, p.Err(), &e)
				assert.ErrorContains(t, e, f.what)
				assert.Equal(t, Stop, p.Findings[0].Severity, "the worst comes first")
			}
			assert.Contains(t, p.String(), found.String())
		})
	}
}

func snapshotsInARow(n int) func(vm *simulator.VirtualMachine) {
	return func(vm *simulator.VirtualMachine) {
		var list []types.VirtualMachineSnapshotTree
		for i := n; i > 0; i-- {
			list = []types.VirtualMachineSnapshotTree{{Snapshot: refTo("VirtualMachineSnapshot", fmt.Sprint("snapshot-", i)), ChildSnapshotList: list}}
		}
		current := refTo("VirtualMachineSnapshot", fmt.Sprint("snapshot-", n))
		vm.Snapshot = &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &current, RootSnapshotList: list}
	}
}

func TestPreflightOfASharedBus(t *testing.T) {
	k := newChecked(t, small())
	k.set(func(vm *simulator.VirtualMachine) {
		for _, d := range vm.Config.Hardware.Device {
			if scsi, ok := d.(types.BaseVirtualSCSIController); ok {
				scsi.GetVirtualSCSIController().SharedBus = types.VirtualSCSISharingPhysicalSharing
			}
		}
	})
	p := k.look(t, nil)
	require.NotNil(t, says(p, "shares its bus (physicalSharing)"))
	assert.NotEmpty(t, p.Disks[0].Skip)
	assert.False(t, p.OK())
}

// poor is an authorization manager that grants all but some.
type poor struct {
	simulator.AuthorizationManager
	lacks   map[string]bool
	refuses bool
}

func (p *poor) answer(entities []types.ManagedObjectReference, ids []string) (out []types.EntityPrivilege) {
	for _, e := range entities {
		one := types.EntityPrivilege{Entity: e}
		for _, id := range ids {
			one.PrivAvailability = append(one.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: !p.lacks[id]})
		}
		out = append(out, one)
	}
	return out
}

func (p *poor) HasPrivilegeOnEntities(req *types.HasPrivilegeOnEntities) soap.HasFault {
	body := &methods.HasPrivilegeOnEntitiesBody{}
	if p.refuses || req.SessionId == "" {
		body.Fault_ = simulator.Fault("", &types.NotSupported{})
		return body
	}
	body.Res = &types.HasPrivilegeOnEntitiesResponse{Returnval: p.answer(req.Entity, req.PrivId)}
	return body
}

func (p *poor) HasUserPrivilegeOnEntities(req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	body := &methods.HasUserPrivilegeOnEntitiesBody{}
	if req.UserName == "" || p.lacks["System.View"] {
		body.Fault_ = simulator.Fault("", &types.NoPermission{PrivilegeId: "System.View"})
		return body
	}
	body.Res = &types.HasUserPrivilegeOnEntitiesResponse{Returnval: p.answer(req.Entities, req.PrivId)}
	return body
}

func TestPreflightNamesMissingPrivileges(t *testing.T) {
	k := newChecked(t, small())
	manager := &poor{lacks: map[string]bool{}}
	manager.Self = *k.c.vim.ServiceContent.AuthorizationManager
	k.model.Map().Put(manager)
	lack := func(refuses bool, ids ...string) {
		manager.refuses, manager.lacks = refuses, map[string]bool{}
		for _, id := range ids {
			manager.lacks[id] = true
		}
	}
	for _, refuses := range []bool{false, true} { // by the session, and by the user's name
		lack(refuses)
		assert.Empty(t, k.look(t, nil).Findings)

		lack(refuses, "VirtualMachine.State.CreateSnapshot", "VirtualMachine.Provisioning.GetVmFiles", "Datastore.Browse")
		p := k.look(t, &PreflightOptions{Transports: []string{NBDSSL, HTTPS, Export}})
		assert.False(t, p.OK())
		f := says(p, "VirtualMachine.State.CreateSnapshot")
		require.NotNil(t, f)
		assert.Equal(t, Stop, f.Severity)
		assert.Contains(t, f.Object, k.vm.Value)
		assert.Contains(t, f.Hint, "Create snapshot")
		f = says(p, "Datastore.Browse")
		require.NotNil(t, f)
		assert.Equal(t, Weak, f.Severity, "there is another transport")
		assert.Contains(t, f.Object, "datastore")
		assert.Contains(t, f.What, "https")
		assert.Len(t, p.Missing, 3)
		assert.Nil(t, says(p, "none of the transports"))

		lack(refuses, "VApp.Export", "VirtualMachine.Provisioning.DiskRandomRead", "Datastore.Browse")
		p = k.look(t, &PreflightOptions{Transports: []string{NBDSSL, HTTPS, Export}})
		require.NotNil(t, says(p, "none of the transports: nbdssl, https, export"))
		assert.False(t, p.OK())

		lack(refuses, "VirtualMachine.Config.ChangeTracking", "Global.DisableMethods", "VirtualMachine.Inventory.Create")
		p = k.look(t, nil)
		assert.True(t, p.OK(), "%v", p)
		assert.Equal(t, Weak, says(p, "ChangeTracking").Severity)
		assert.Equal(t, Note, says(p, "DisableMethods").Severity)
		assert.Nil(t, says(p, "Inventory.Create"), "it is not wanted for a backup")
		p = k.look(t, &PreflightOptions{For: []string{ForRestore}})
		require.NotNil(t, says(p, "Inventory.Create"))
		assert.False(t, p.OK())
	}
	lack(true, "System.View")
	p := k.look(t, nil)
	require.NotNil(t, says(p, "privileges cannot be looked at"))
	assert.True(t, p.OK())
}

func TestPreflightOfALicence(t *testing.T) {
	k := newChecked(t, simulator.ESX())
	manager := k.model.Map().Get(*k.c.vim.ServiceContent.LicenseManager).(*simulator.LicenseManager)
	k.model.Map().WithLock(k.model.Service.Context, manager.Self, func() {
		manager.Licenses = append(manager.Licenses, types.LicenseManagerLicenseInfo{EditionKey: "esxBasic", Name: "vSphere Hypervisor"})
	})
	p := k.look(t, nil)
	require.NotNil(t, says(p, "free ESXi"))
	assert.False(t, p.OK())
}

func TestPreflightOfWhatIsNotThere(t *testing.T) {
	k := newChecked(t, small())
	_, err := k.c.Preflight(t.Context(), refTo("VirtualMachine", "vm-none"), nil)
	require.ErrorContains(t, err, "vm-none")
}

func TestPreflightAsJSON(t *testing.T) {
	p := &Preflight{VM: "vm-1", Name: "web1", Tracking: TrackingOn, Findings: []Finding{{Severity: Stop, Object: "o", What: "w", Hint: "h"}},
		Missing: []MissingRight{{Privilege: "p", Name: "n", Object: "o", For: []string{"f"}}}}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	assert.Contains(t, string(text), `"ok":false`)
	assert.Contains(t, string(text), `"severity":"stop"`)
	var back Preflight
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, *p, back)
	require.Error(t, json.Unmarshal([]byte(`{"findings":[{"severity":"dire"}]}`), &back))
	assert.Equal(t, "severity(7)", Severity(7).String())
}

// Every privilege is a word of the API's, wanted somewhere and for something, and listed once for each place.
func TestPrivileges(t *testing.T) {
	seen, listed := map[string]bool{}, map[string]bool{}
	for _, p := range Privileges() {
		assert.Regexp(t, regexp.MustCompile(`^[A-Z]\w+(\.\w+)+$`), p.ID)
		assert.NotEmpty(t, p.Name)
		assert.NotEmpty(t, p.For, p.ID)
		assert.Contains(t, []string{OnVM, OnProxy, OnDatastore, OnRoot, OnWhere, OnHost}, p.On, p.ID)
		assert.False(t, listed[p.ID+p.On], p.ID)
		seen[p.ID], listed[p.ID+p.On] = true, true
	}
	for _, transport := range defaultOrder {
		found := false
		for _, p := range Privileges() {
			for _, use := range p.For {
				found = found || use == transport
			}
		}
		assert.True(t, found, "%s needs no privilege", transport)
	}
	// A simulator's roles have been taken from a real server.
	f := newFront(t, small())
	known := map[string]bool{}
	manager := f.model.Map().Get(*f.connect(t, ConnectOptions{}).vim.ServiceContent.AuthorizationManager).(*simulator.AuthorizationManager)
	for _, role := range manager.RoleList {
		for _, id := range role.Privilege {
			known[id] = true
		}
	}
	require.Greater(t, len(known), 100)
	for id := range seen {
		assert.True(t, known[id], "%s is no privilege that a server knows", id)
	}
}
