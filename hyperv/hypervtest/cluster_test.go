package hypervtest

import (
	"io"
	"io/fs"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func cluster(t *testing.T, opts *ClusterOptions) *Cluster {
	t.Helper()
	c, err := StartCluster(opts)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// ids are what a query finds on a node, by a property.
func found(t *testing.T, h *Host, namespace, query, property string) (list []string) {
	t.Helper()
	h.Lock()
	defer h.Unlock()
	objects, _, err := h.query(namespace, query)
	require.NoError(t, err)
	for _, o := range objects {
		text, _ := o.text(property)
		list = append(list, text)
	}
	return list
}

// R087, R088: every node tells of the same cluster; the level is the highest that the oldest can have, and is not told by a node
// that does not know the property.
func TestClusterTellsOfItself(t *testing.T) {
	c := cluster(t, &ClusterOptions{Generations: []string{"2012r2", "2016"}})
	hosts := c.Hosts()
	for _, h := range hosts {
		require.Equal(t, []string{"HV1", "HV2"}, found(t, h, ClusterNamespace, "SELECT * FROM MSCluster_Node WHERE State = 0", "Name"))
		require.Equal(t, []string{`C:\ClusterStorage\Volume1`}, found(t, h, ClusterNamespace, "SELECT * FROM MSCluster_ClusterSharedVolume", "Name"))
	}
	require.Equal(t, []string{""}, found(t, hosts[0], ClusterNamespace, "SELECT * FROM MSCluster_Cluster", "ClusterFunctionalLevel"))
	require.Equal(t, []string{"8"}, found(t, hosts[1], ClusterNamespace, "SELECT * FROM MSCluster_Cluster", "ClusterFunctionalLevel"))
	c.SetLevel(9)
	require.Equal(t, []string{"9"}, found(t, hosts[1], ClusterNamespace, "SELECT * FROM MSCluster_Cluster", "ClusterFunctionalLevel"))
	require.Equal(t, []string{""}, found(t, hosts[0], ClusterNamespace, "SELECT * FROM MSCluster_Cluster", "ClusterFunctionalLevel"))
	require.NoError(t, c.SetDown("hv2", true))
	require.Equal(t, []string{"HV2"}, found(t, hosts[0], ClusterNamespace, "SELECT * FROM MSCluster_Node WHERE State = 1", "Name"))
	require.ErrorIs(t, c.SetDown("hv9", true), fs.ErrNotExist)
	require.Equal(t, hosts[1].Addr(), c.Address("hv2.example.org", "cim"))
	require.Equal(t, hosts[0].Addr(), c.Address("cluster1", "cim"))
	require.Equal(t, "fs1", c.Address("fs1", "smb"))
}

// A VM moves in the midst of a backup: its checkpoint is at the other node, nothing of it is at the old one, the guest goes on in the
// same files, and every node tells the new owner.
func TestMove(t *testing.T) {
	c := cluster(t, &ClusterOptions{Nodes: 3, Host: Options{JobTime: time.Millisecond}})
	id := c.AddVM("HV1", VM{Name: "web1", Disks: []Disk{{Size: 16 << 20}, {Size: 8 << 20}}})
	stays := c.AddVM("HV1", VM{Name: "web2", Disks: []Disk{{Size: 4 << 20}}})
	from, dest := c.Host("hv1"), c.Host("hv3")
	g := from.VM(id)
	require.Equal(t, `C:\ClusterStorage\Volume1\web1`, g.Folder())
	stop := g.Churn(7)
	defer stop()
	checkpoint, err := g.Checkpoint("mine")
	require.NoError(t, err)
	tip := g.Tip(0)
	settings := "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier = '" + id + "'"
	was := found(t, from, V2, settings, "InstanceID")
	require.Len(t, was, 2)
	parts := len(found(t, from, V2, "SELECT * FROM Msvm_StorageAllocationSettingData", "InstanceID"))

	require.NoError(t, c.Move(id, "HV3"))
	require.Same(t, dest, c.Owner(id))
	require.Same(t, dest, g.Host())
	require.Nil(t, from.VM(id))
	require.Same(t, g, dest.VM(id))
	require.Empty(t, found(t, from, V2, settings, "InstanceID"))
	require.ElementsMatch(t, was, found(t, dest, V2, settings, "InstanceID"))
	there := found(t, dest, V2, "SELECT * FROM Msvm_StorageAllocationSettingData", "Parent")
	require.Len(t, there, parts-1, "the other VM's stays")
	for _, parent := range there {
		require.Contains(t, parent, `\\HV3\root`)
	}
	require.Len(t, found(t, from, V2, "SELECT * FROM Msvm_ComputerSystem", "Name"), 2, "the host and the other VM")
	require.Equal(t, []string{stays}, found(t, from, V2, "SELECT * FROM Msvm_VirtualSystemSettingData", "VirtualSystemIdentifier"))
	for _, h := range c.Hosts() {
		require.Equal(t, []string{"HV3"}, found(t, h, ClusterNamespace, "SELECT * FROM MSCluster_ResourceGroup WHERE Name = 'web1'", "OwnerNode"))
		require.Equal(t, []string{"HV3", "HV3"}, found(t, h, ClusterNamespace, "SELECT * FROM MSCluster_Resource WHERE OwnerGroup = 'web1'", "OwnerNode"))
		require.Equal(t, []string{"HV1", "HV1"}, found(t, h, ClusterNamespace, "SELECT * FROM MSCluster_Resource WHERE OwnerGroup = 'web2'", "OwnerNode"))
		require.Equal(t, []string{"web1"}, found(t, h, ClusterNamespace, `ASSOCIATORS OF {MSCluster_Node.Name="HV3"} WHERE ResultClass = MSCluster_ResourceGroup`, "Name"))
	}

	require.Equal(t, tip, g.Tip(0))
	require.NoError(t, g.Write(0, 4096, []byte("after the move")))
	stop()
	for disk := range 2 {
		got, err := g.Read(disk, 0, int(g.Size(disk)))
		require.NoError(t, err)
		want := make([]byte, len(got))
		_, err = g.Now(disk).ReadAt(want, 0)
		if err != io.EOF {
			require.NoError(t, err)
		}
		require.Equal(t, want, got, "disk %d", disk)
	}
	require.NoError(t, g.RemoveCheckpoint(checkpoint))
	require.NoError(t, g.PowerOff())
	require.Eventually(t, func() bool { return len(c.Leftovers()) == 0 }, 5*time.Second, 10*time.Millisecond, "%v", c.Leftovers())

	require.ErrorIs(t, c.Move(id, "HV9"), fs.ErrNotExist)
	require.ErrorIs(t, c.Move("nobody", "HV1"), fs.ErrNotExist)
	require.NoError(t, c.Move(id, "HV3"), "it is there")
	local := dest.AddVM(VM{Name: "local", Disks: []Disk{{Size: 4 << 20}}})
	require.ErrorIs(t, c.Move(local, "HV1"), fs.ErrNotExist, "it is no role of the cluster")
	shared := dest.AddVM(VM{Name: "restored", Folder: `C:\ClusterStorage\Volume1\restored`, Disks: []Disk{{Size: 4 << 20}}})
	require.NoError(t, c.AddRole(shared))
	require.ErrorIs(t, c.AddRole(shared), fs.ErrExist)
	require.ErrorIs(t, c.AddRole("nobody"), fs.ErrNotExist)
	dest.Lock()
	dest.startJob("Any", shared, "something is under way", 100*time.Millisecond, func() error { return nil }, nil)
	dest.Unlock()
	begun := time.Now()
	require.NoError(t, c.Move(shared, "HV2"))
	require.GreaterOrEqual(t, time.Since(begun), 90*time.Millisecond, "a job is waited for")
	c.RemoveRole(shared)
	require.Nil(t, c.Owner(shared))
	require.NotNil(t, c.Host("HV2").VM(shared))
	require.Empty(t, found(t, from, ClusterNamespace, "SELECT * FROM MSCluster_Resource WHERE OwnerGroup = 'restored'", "Name"))
	require.Empty(t, found(t, from, ClusterNamespace, "SELECT * FROM MSCluster_ResourceGroup WHERE Name = 'restored'", "Name"))
	local = c.AddVM("HV2", VM{Name: "fixed", Folder: `C:\VMs\fixed`, Disks: []Disk{{Size: 4 << 20}}})
	require.Error(t, c.Move(local, "HV1"), "its files are the node's own")
	require.NotNil(t, c.Host("HV2").VM(local))
}

// A VM moves to a node that is older where that node runs its configuration version, and what the node has no class for stays behind; one
// of a later version is refused, and stays where it is. Nothing of it is left that a later call would stumble on.
func TestMoveToAnOlderNode(t *testing.T) {
	c := cluster(t, &ClusterOptions{Generations: []string{"2012r2", "2016"}, Host: Options{JobTime: time.Millisecond}})
	older, newer := c.Host("HV1"), c.Host("HV2")
	late := c.AddVM("HV2", VM{Name: "late", Version: "8.0", Disks: []Disk{{Size: 4 << 20}}})
	var refused *FaultError
	require.ErrorAs(t, c.Move(late, "HV1"), &refused)
	require.Same(t, newer, c.Owner(late))
	require.NotNil(t, newer.VM(late))

	id := c.AddVM("HV2", VM{Name: "web1", Version: "5.0", Disks: []Disk{{Size: 4 << 20}}})
	require.NotEmpty(t, found(t, newer, V2, "SELECT * FROM Msvm_SecuritySettingData", "InstanceID"))
	require.NoError(t, c.Move(id, "HV1"))
	g := older.VM(id)
	checkpoint, err := g.Checkpoint("mine")
	require.NoError(t, err)
	require.NoError(t, g.RemoveCheckpoint(checkpoint))
	require.NoError(t, c.Move(id, "HV2"))
	require.NoError(t, g.Write(0, 0, []byte("and back")))
	require.NoError(t, g.PowerOff())
	require.Eventually(t, func() bool { return len(c.Leftovers()) == 0 }, 5*time.Second, 10*time.Millisecond, "%v", c.Leftovers())
}

// A node dies in the midst of a backup: its VM is up at another one with the checkpoint, in what it had written, and the merge that
// was under way is made there.
func TestCrash(t *testing.T) {
	c := cluster(t, &ClusterOptions{Host: Options{JobTime: time.Millisecond, MergeTime: time.Hour}})
	id := c.AddVM("HV1", VM{Name: "web1", Disks: []Disk{{Size: 8 << 20, BlockSize: 1 << 20}}})
	from, dest := c.Host("HV1"), c.Host("HV2")
	g := from.VM(id)
	stop := g.Churn(5)
	defer stop()
	gone, err := g.Checkpoint("merges")
	require.NoError(t, err)
	_, err = g.Checkpoint("stays")
	require.NoError(t, err)
	require.NoError(t, g.RemoveCheckpoint(gone), "its merge takes an hour")
	dest.Lock()
	dest.opts.MergeTime = time.Millisecond
	dest.Unlock()

	require.NoError(t, c.Crash("HV1", "HV2"))
	require.Same(t, dest, c.Owner(id))
	require.Equal(t, []string{"HV1"}, found(t, dest, ClusterNamespace, "SELECT * FROM MSCluster_Node WHERE State = 1", "Name"))
	_, err = net.DialTimeout("tcp", from.Addr(), time.Second)
	require.Error(t, err)
	require.Equal(t, dest.Addr(), c.Address("CLUSTER1", "cim"))
	require.Len(t, found(t, dest, V2, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeUser+"'", "InstanceID"), 1)
	require.NoError(t, g.Write(0, 512, []byte("it runs again")))
	require.True(t, dest.Settled(5*time.Second))
	stop()
	got, err := g.Read(0, 0, int(g.Size(0)))
	require.NoError(t, err)
	want := make([]byte, len(got))
	_, err = g.Now(0).ReadAt(want, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
	require.Empty(t, c.Leftovers())
	require.ErrorIs(t, c.Crash("HV2", "HV9"), fs.ErrNotExist)
}
