package hyperv

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// A VM that moves is followed, by whichever node, and the site is named by the cluster: facts 5.3.
func TestClusterMoves(t *testing.T) {
	c := cluster(t, 0, "2022", "2022", "2022")
	vm := c.AddVM("HV1", hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Path: `C:\ClusterStorage\Volume1\web1\a.vhdx`, Size: 64 << 20}}})
	sites := []*Site{clusterSite(t, c, "HV1"), clusterSite(t, c, "HV3")}
	require.Equal(t, "cl1", sites[0].Address())
	require.Equal(t, "cl1", sites[1].Address())
	for _, on := range []string{"HV1", "HV2", "HV3", "HV1"} {
		if c.Owner(vm).Name() != on {
			require.NoError(t, c.Move(vm, on))
		}
		for _, s := range sites {
			h, err := s.Owner(t.Context(), strings.ToUpper(vm))
			require.NoError(t, err)
			require.Equal(t, on, h.Info().Name)
		}
	}
}

// A VM that moves before any of the questions by which the end of an effect looks for it is not gone; one that is gone is: facts 5.3.
func TestClusterMovesBetweenQuestions(t *testing.T) {
	c := cluster(t, 0, "2022", "2022")
	vm := c.AddVM("HV1", hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Path: `C:\ClusterStorage\Volume1\web1\a.vhdx`, Size: 64 << 20}}})
	s := clusterSite(t, c, "HV1")
	for skip := range 8 {
		from := c.Owner(vm)
		to := map[string]string{"HV1": "HV2", "HV2": "HV1"}[from.Name()]
		from.Fail(hypervtest.Fault{Call: "Enumerate", Skip: skip, Do: func() { require.NoError(t, c.Move(vm, to)) }})
		h, m, err := s.settled(t.Context(), strings.ToLower(vm))
		require.NoError(t, err)
		require.NotNil(t, m, "before question %d", skip)
		require.NotNil(t, h)
		from.Heal()
	}
	_, m, err := s.settled(t.Context(), "00000000-0000-4000-8000-00000000dead")
	require.NoError(t, err)
	require.Nil(t, m)
}

// A cluster that is being upgraded: nodes that it tells no release of are asked, and the plan changes with node and level (R087, R088).
func TestClusterUpgrade(t *testing.T) {
	c := cluster(t, 0, "2022", "2012r2", "2016")
	vm := c.AddVM("HV1", hypervtest.VM{Name: "web1", Version: "5.0", Disks: []hypervtest.Disk{{Path: `C:\ClusterStorage\Volume1\web1\a.vhdx`, Size: 64 << 20}}})
	late := c.AddVM("HV3", hypervtest.VM{Name: "late", Version: "8.0"})
	s := clusterSite(t, c, "HV3")
	about, err := s.Cluster(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Cluster{Name: "CL1", Level: 8, Root: `C:\ClusterStorage`, Nodes: []Node{{"HV1", NodeUp, 20348}, {"HV2", NodeUp, 9600}, {"HV3", NodeUp, 14393}}}, about)
	o := &ProviderOptions{Requester: anyRequester}
	plan := func(id string) Procedure {
		p, err := s.plan(t.Context(), id, o)
		require.NoError(t, err)
		return p.plan.Procedure
	}
	require.Equal(t, Writer2012R2, plan(late))
	c.SetLevel(9)
	require.Equal(t, Writer2012R2, plan(late), "R087: a node of 2012 R2 is in it")
	require.Equal(t, []string{"weak procedure", "weak tracking", "weak no-disk", "weak controller"}, names(preflightOf(t, s, late, &PreflightOptions{Backup: *o})))
	require.NoError(t, c.SetDown("HV2", true))
	require.Equal(t, Production, plan(late), "one that is down and tells nothing: the level lets no older one in")
	require.Equal(t, []string{"weak procedure", "weak tracking"}, names(preflightOf(t, s, vm, &PreflightOptions{Backup: *o})))
}

// 2008 R2 has its own classes: the same VM is read from them as from later ones (R037).
func TestLegacyInventory(t *testing.T) {
	disks := func() []hypervtest.Disk {
		return []hypervtest.Disk{{Path: `C:\v\a.vhd`, IDE: true, Size: 64 << 20}, {Path: `C:\v\b.vhd`, Bus: 1, Slot: 2, Size: 32 << 20}, {Path: `C:\iso\x.iso`, IDE: true, Bus: 1, DVD: true},
			{Path: `\\HV1\root\virtualization:Msvm_DiskDrive.DeviceID="x"`, Bus: 1, Slot: 3, Physical: true}, {Path: `C:\v\gone.vhd`, Slot: 4, Bus: 1}}
	}
	f := fake(t, hypervtest.Options{Generation: "2008r2"})
	id := f.AddVM(hypervtest.VM{Name: "old", Disks: disks()})
	snapped := f.AddVM(hypervtest.VM{Name: "snapped", Disks: []hypervtest.Disk{{Path: `C:\w\a.vhd`, IDE: true, Size: 64 << 20}}})
	_, err := f.VM(snapped).Checkpoint("a user's")
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
	child, err := h.Machine(t.Context(), snapped)
	require.NoError(t, err)
	require.Len(t, child.Disks, 1, "the snapshot's own settings are not the VM's")
	require.True(t, strings.HasSuffix(child.Disks[0].Path, ".avhd"), child.Disks[0].Path)
	require.Equal(t, `C:\w\a.vhd`, child.Disks[0].ParentPath)
	require.True(t, m.Disks[2].Physical)
	require.NotEmpty(t, m.Disks[3].Problem)
	p, err := s.plan(t.Context(), id, &ProviderOptions{Requester: anyRequester, IgnoreDisks: []string{"scsi0-3", "scsi0-4"}})
	require.NoError(t, err)
	require.Equal(t, Writer2012, p.plan.Procedure)
	require.False(t, p.plan.Tracking)
	found := preflightOf(t, s, id, &PreflightOptions{Backup: ProviderOptions{Requester: anyRequester}})
	require.Equal(t, []string{"stop pass-through", "stop unreadable"}, names(found), found.String())
}
