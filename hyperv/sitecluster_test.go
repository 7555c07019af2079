package hyperv

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// A whole fake cluster, with its own classes and a VM that moves: the owner follows it, by the cluster's name as by a node's, and the plan
// follows the level: R087, R088, facts 5.3.
func TestMovesInCluster(t *testing.T) {
	c, err := hypervtest.StartCluster(&hypervtest.ClusterOptions{Nodes: 3, Generations: []string{"2022", "2012r2", "2016"}})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	vm := strings.ToLower(c.AddVM("HV1", hypervtest.VM{Name: "web1", Version: "5.0", Disks: []hypervtest.Disk{{Path: `C:\ClusterStorage\Volume1\web1\a.vhdx`, Size: 64 << 20}}}))
	late := strings.ToLower(c.AddVM("HV3", hypervtest.VM{Name: "late", Version: "8.0"}))
	var sites []*Site
	for _, by := range []string{"HV1", "HV3"} {
		s, err := ConnectSite(t.Context(), c.Address(by, ProtocolCIM), cim.Login{User: "eva", Password: "pw"},
			&SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Address: c.Address,
				Store: func(_ context.Context, machine string) (Store, error) { return c.Host(machine).LocalFiles(), nil }})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		sites = append(sites, s)
	}
	require.Equal(t, "cluster1", sites[0].Address())
	require.Equal(t, sites[0].Address(), sites[1].Address())
	for _, on := range []string{"HV1", "HV2", "HV3", "HV1"} {
		if c.Owner(vm).Name() != on {
			require.NoError(t, c.Move(vm, on))
		}
		for _, s := range sites {
			h, err := s.Owner(t.Context(), vm)
			require.NoError(t, err)
			require.Equal(t, on, h.Info().Name)
		}
	}
	about, err := sites[0].Cluster(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Cluster{Name: "CLUSTER1", Level: 8, Root: `C:\ClusterStorage`, Nodes: []Node{{"HV1", NodeUp, 20348}, {"HV2", NodeUp, 9600}, {"HV3", NodeUp, 14393}}}, about)

	o := &ProviderOptions{Requester: anyRequester}
	p, err := sites[0].plan(t.Context(), late, o)
	require.NoError(t, err)
	require.Equal(t, Writer2012R2, p.plan.Procedure)
	c.SetLevel(9)
	p, err = sites[0].plan(t.Context(), late, o)
	require.NoError(t, err)
	require.Equal(t, Writer2012R2, p.plan.Procedure, "R087: a node of 2012 R2 is in it")
	require.Equal(t, []string{"weak procedure", "weak tracking", "weak no-disk"}, names(preflightOf(t, sites[1], late, &PreflightOptions{Backup: *o})))
	require.NoError(t, c.SetDown("HV2", true))
	p, err = sites[0].plan(t.Context(), late, o)
	require.NoError(t, err)
	require.Equal(t, Production, p.plan.Procedure, "one that is down and tells nothing: the level lets no older one in")
	require.Equal(t, []string{"weak procedure", "weak tracking"}, names(preflightOf(t, sites[1], vm, &PreflightOptions{Backup: *o})))
}

// 2008 R2 has its own classes: the same VM is read from them as from later ones (R037).
func TestLegacyInventory(t *testing.T) {
	disks := func() []hypervtest.Disk {
		return []hypervtest.Disk{{Path: `C:\v\a.vhd`, IDE: true, Size: 64 << 20}, {Path: `C:\v\b.vhd`, Bus: 1, Slot: 2, Size: 32 << 20}, {Path: `C:\iso\x.iso`, IDE: true, Bus: 1, DVD: true},
			{Path: `\\HV1\root\virtualization:Msvm_DiskDrive.DeviceID="x"`, Bus: 1, Slot: 3, Physical: true}, {Path: `C:\v\gone.vhd`, Slot: 4, Bus: 1}}
	}
	f := fake(t, hypervtest.Options{Generation: "2008r2"})
	id := f.AddVM(hypervtest.VM{Name: "old", Disks: disks()})
	_, err := f.VM(id).Checkpoint("a user's")
	require.NoError(t, err)
	s := siteAt(t, f, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Store: func(context.Context, string) (Store, error) { return f.LocalFiles(), nil }})
	h, err := s.Owner(t.Context(), id)
	require.NoError(t, err)
	require.True(t, h.Legacy())
	require.Equal(t, "before 2012", h.Info().Generation())
	m, err := h.Machine(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "old", m.Name)
	require.Equal(t, Running, m.State)
	require.Equal(t, 1, m.Generation)
	require.Len(t, m.Disks, 4)
	for i, want := range []struct {
		place string
		size  int64
	}{{"ide0-0", 64 << 20}, {"scsi0-2", 32 << 20}, {"scsi0-3", 0}, {"scsi0-4", 0}} {
		require.Equal(t, want.place, m.Disks[i].Key)
		require.Equal(t, want.size, m.Disks[i].Size)
	}
	require.Equal(t, FormatVHD, m.Disks[0].Format)
	require.True(t, strings.HasSuffix(m.Disks[0].Path, ".avhd"), m.Disks[0].Path)
	require.NotEmpty(t, m.Disks[0].ParentPath)
	require.True(t, m.Disks[2].Physical)
	require.NotEmpty(t, m.Disks[3].Problem)
	p, err := s.plan(t.Context(), id, &ProviderOptions{Requester: anyRequester, IgnoreDisks: []string{"scsi0-3", "scsi0-4"}})
	require.NoError(t, err)
	require.Equal(t, Writer2012, p.plan.Procedure)
	require.False(t, p.plan.Tracking)
	found := preflightOf(t, s, id, &PreflightOptions{Backup: ProviderOptions{Requester: anyRequester}})
	require.Equal(t, []string{"stop pass-through", "stop unreadable"}, names(found), found.String())
}
