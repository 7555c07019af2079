package vmwaretest

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// TestSearches: everything that looks through the whole inventory meets what is laid over it here, and finds VMs and hosts.
func TestSearches(t *testing.T) {
	for name, opts := range map[string]*Options{"vCenter": {VMs: 2, DiskBytes: 1 << 20}, "host": {ESX: true, VMs: 2, DiskBytes: 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, opts)
			v := r.s.VM("web1")
			require.NoError(t, r.reconfigure(v, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
				&types.OptionValue{Key: "SET.guest.ipAddress", Value: "192.0.2.7"}, &types.OptionValue{Key: "SET.guest.hostName", Value: "db.example"},
			}}))
			vm := r.vm(v, "config", "runtime")
			var host mo.HostSystem
			require.NoError(t, r.retrieve(*vm.Runtime.Host, &host))
			index := object.NewSearchIndex(r.c)
			found := func(ref object.Reference, err error) types.ManagedObjectReference {
				t.Helper()
				require.NoError(t, err)
				require.NotNil(t, ref)
				return ref.Reference()
			}
			yes, no := true, false
			require.Equal(t, v.Ref(), found(index.FindByUuid(r.ctx, nil, vm.Config.Uuid, true, &no)))
			require.Equal(t, v.Ref(), found(index.FindByUuid(r.ctx, nil, vm.Config.InstanceUuid, true, &yes)))
			require.Equal(t, host.Self, found(index.FindByUuid(r.ctx, nil, host.Summary.Hardware.Uuid, false, nil)))
			nobody, err := index.FindByUuid(r.ctx, nil, "00000000-0000-0000-0000-000000000000", true, &no)
			require.NoError(t, err)
			require.Nil(t, nobody)
			all := func(uuid string, vms bool, instance *bool) []types.ManagedObjectReference {
				t.Helper()
				res, err := methods.FindAllByUuid(r.ctx, r.c, &types.FindAllByUuid{This: *r.c.ServiceContent.SearchIndex, Uuid: uuid, VmSearch: vms, InstanceUuid: instance})
				require.NoError(t, err)
				return res.Returnval
			}
			require.Equal(t, []types.ManagedObjectReference{v.Ref()}, all(vm.Config.Uuid, true, nil))
			require.Equal(t, []types.ManagedObjectReference{v.Ref()}, all(vm.Config.InstanceUuid, true, &yes))
			require.Contains(t, all(host.Summary.Hardware.Uuid, false, nil), host.Self)
			require.Equal(t, v.Ref(), found(index.FindByIp(r.ctx, nil, "192.0.2.7", true)))
			require.Equal(t, v.Ref(), found(index.FindByDnsName(r.ctx, nil, "db.example", true)))
			require.Equal(t, v.Ref(), found(index.FindByDatastorePath(r.ctx, r.center(), vm.Config.Files.VmPathName)))
			_, err = index.FindByIp(r.ctx, nil, "192.0.2.99", false)
			require.NoError(t, err)
			_, err = index.FindByDnsName(r.ctx, nil, "nobody.example", false)
			require.NoError(t, err)
		})
	}
}

func (r *rig) center() *object.Datacenter {
	ref := r.datacenter()
	return object.NewDatacenter(r.c, *ref)
}

// TestTools: VMware Tools run where the machine does, unless it has none or a client said otherwise.
func TestTools(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	v := r.s.VM("web0")
	guest := func() *types.GuestInfo { return r.vm(v, "guest").Guest }
	require.Equal(t, "guestToolsRunning", guest().ToolsRunningStatus)
	require.Equal(t, "running", guest().GuestState)
	require.NotEmpty(t, guest().ToolsVersionStatus2)
	require.Equal(t, "guestToolsRunning", r.vm(v, "summary.guest").Summary.Guest.ToolsRunningStatus)
	require.NoError(t, v.PowerOff())
	require.Equal(t, "guestToolsNotRunning", guest().ToolsRunningStatus)
	require.Equal(t, "notRunning", guest().GuestState)
	require.NoError(t, v.PowerOn())
	require.Equal(t, "guestToolsRunning", guest().ToolsRunningStatus)
	v.SetQuiescing(QuiesceNoTools)
	require.Equal(t, "guestToolsNotRunning", guest().ToolsRunningStatus)
	require.Equal(t, "guestToolsNotInstalled", guest().ToolsVersionStatus2)
	v.SetQuiescing(QuiesceOK)
	require.Equal(t, "guestToolsRunning", guest().ToolsRunningStatus)
	require.NoError(t, r.reconfigure(v, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "SET.guest.toolsRunningStatus", Value: "guestToolsNotRunning"},
	}}))
	require.NoError(t, r.remove(r.create(v, false), false))
	require.Equal(t, "guestToolsNotRunning", guest().ToolsRunningStatus, "what was set by hand stays")
}
