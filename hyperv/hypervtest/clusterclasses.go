package hypervtest

import (
	"fmt"
	"io/fs"
	"strings"
)

// Inline is an object that stands within another as elements, not as text: a property whose type is a class.
type Inline struct{ *Object }

// States and kinds of a cluster's objects, as the cluster API numbers them.
const (
	groupOfVM       = 111 // GroupType of a virtual machine
	resourceOnline  = 2
	resourceOffline = 3
)

// describe defines the classes of a cluster on one node, and what there is from the start: the cluster, its nodes, its volumes.
// Which properties are keys, and the class of private properties, are from general knowledge.
func (c *Cluster) describe(h *Host) {
	for _, class := range []Class{
		{Name: "MSCluster_Cluster", Keys: []string{"Name"}},
		{Name: "MSCluster_Node", Keys: []string{"Name"}},
		{Name: "MSCluster_ResourceGroup", Keys: []string{"Id"}},
		{Name: "MSCluster_Resource", Keys: []string{"Id"}},
		{Name: "MSCluster_ClusterSharedVolume", Keys: []string{"Name"}},
		{Name: "MSCluster_ClusterSharedVolumeToResource", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
		{Name: "MSCluster_NodeToActiveGroup", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
		{Name: "MSCluster_ResourceGroupToResource", Keys: []string{"GroupComponent", "PartComponent"}, Association: true},
	} {
		h.Define(ClusterNamespace, class)
	}
	cluster := NewObject("MSCluster_Cluster", "Name", c.name, "Caption", c.name, "Status", "OK", "Fqdn", strings.ToLower(c.name)+".example.org",
		"EnableSharedVolumes", uint32(1), "SharedVolumesRoot", `C:\ClusterStorage`, "BackupInProgress", uint32(0), "MaxNumberOfNodes", uint32(64))
	if h.gen.since("2016") {
		cluster.Set("ClusterFunctionalLevel", uint32(c.level))
		cluster.Set("ClusterUpgradeVersion", uint32(1))
	}
	h.Add(ClusterNamespace, cluster)
	for n, node := range c.hosts {
		h.Add(ClusterNamespace, NewObject("MSCluster_Node", "CreationClassName", "MSCluster_Node", "Name", node.opts.Name, "Caption", node.opts.Name,
			"Status", "OK", "State", uint32(0), "NodeInstanceID", fmt.Sprintf("%032d", n+1), "BuildNumber", node.gen.build))
	}
	for n := range c.volumes {
		disk := h.Add(ClusterNamespace, NewObject("MSCluster_Resource", "Name", fmt.Sprintf("Cluster Disk %d", n+1), "Id", c.id("C5D", n+1),
			"Type", "Physical Disk", "State", uint32(resourceOnline), "OwnerGroup", c.id("C5F", n+1), "OwnerNode", c.hosts[0].opts.Name,
			"IsClusterSharedVolume", true, "PrivateProperties", nil))
		volume := h.Add(ClusterNamespace, NewObject("MSCluster_ClusterSharedVolume", "Name", fmt.Sprintf(`C:\ClusterStorage\Volume%d`, n+1),
			"VolumeName", `\\?\Volume{`+c.id("C5E", n+1)+`}\`, "VolumeOffset", uint64(0), "BackupState", uint32(0), "FaultState", uint32(0)))
		h.Add(ClusterNamespace, NewObject("MSCluster_ClusterSharedVolumeToResource", "GroupComponent", volume, "PartComponent", disk))
	}
}

// id is the same on every node.
func (c *Cluster) id(kind string, n int) string { return strings.ToLower(guid(kind, n)) }

// join makes the role of a VM on every node: a group, and in it the machine and its configuration.
func (c *Cluster) join(vm, name string, owner int, online bool) {
	c.mu.Lock()
	c.owners[strings.ToLower(vm)] = owner
	c.made++
	n := c.made
	c.mu.Unlock()
	state, whole := uint32(resourceOnline), uint32(0)
	if !online {
		state, whole = resourceOffline, 1
	}
	node := c.hosts[owner].opts.Name
	c.each(func(h *Host, _ int) {
		group := h.Add(ClusterNamespace, NewObject("MSCluster_ResourceGroup", "Name", name, "Id", c.id("6A0", n), "GroupType", uint32(groupOfVM),
			"State", whole, "OwnerNode", node, "IsCore", false))
		for k, kind := range []string{"Virtual Machine", "Virtual Machine Configuration"} {
			private := NewObject("MSCluster_Property", "VmID", strings.ToLower(vm))
			r := h.Add(ClusterNamespace, NewObject("MSCluster_Resource", "Name", kind+" "+name, "Id", c.id("6B"+fmt.Sprint(k), n), "Type", kind,
				"State", state, "OwnerGroup", name, "OwnerNode", node, "IsClusterSharedVolume", false, "PrivateProperties", Inline{private}))
			h.Add(ClusterNamespace, NewObject("MSCluster_ResourceGroupToResource", "GroupComponent", group, "PartComponent", r))
		}
		h.activate(group, node)
	})
}

// activate says which node a group is on.
func (h *Host) activate(group *Object, node string) {
	for _, o := range h.objects {
		if o.Class == "MSCluster_Node" && o.Values["Name"] == node {
			h.Add(ClusterNamespace, NewObject("MSCluster_NodeToActiveGroup", "GroupComponent", o, "PartComponent", group))
			return
		}
	}
}

// reown tells every node that a VM's role is on another one.
func (c *Cluster) reown(vm string, owner int) {
	c.mu.Lock()
	c.owners[strings.ToLower(vm)] = owner
	c.mu.Unlock()
	node := c.hosts[owner].opts.Name
	c.each(func(h *Host, _ int) {
		var group *Object
		for _, r := range h.rolesOf(vm) {
			r.Set("OwnerNode", node)
			group = h.groupOf(r)
		}
		if group == nil {
			return
		}
		group.Set("OwnerNode", node)
		for _, o := range h.objects {
			if o.Class == "MSCluster_NodeToActiveGroup" && o.leadsTo(group) {
				h.Remove(o)
				break
			}
		}
		h.activate(group, node)
	})
}

// AddRole makes a VM that a node has a role of the cluster, as somebody does after a restore.
func (c *Cluster) AddRole(vm string) error {
	for i, h := range c.hosts {
		g := h.VM(vm)
		if g == nil {
			continue
		}
		if c.Owner(vm) != nil {
			return fmt.Errorf("VM %s: its role: %w", vm, fs.ErrExist)
		}
		c.join(g.id, g.name, i, g.running())
		return nil
	}
	return fmt.Errorf("VM %.64q: %w", vm, fs.ErrNotExist)
}

// RemoveRole removes the role of a VM that was deleted, or is no longer the cluster's. The VM itself stays as it is.
func (c *Cluster) RemoveRole(vm string) {
	c.mu.Lock()
	delete(c.owners, strings.ToLower(vm))
	c.mu.Unlock()
	c.each(func(h *Host, _ int) {
		for _, r := range h.rolesOf(vm) {
			if group := h.groupOf(r); group != nil {
				h.Remove(group)
			}
			h.Remove(r)
		}
	})
}

// rolesOf are the resources of a VM.
func (h *Host) rolesOf(vm string) (found []*Object) {
	for _, o := range h.objects {
		if p, ok := o.Values["PrivateProperties"].(Inline); ok && o.Class == "MSCluster_Resource" && strings.EqualFold(p.Values["VmID"].(string), vm) {
			found = append(found, o)
		}
	}
	return found
}

func (h *Host) groupOf(resource *Object) *Object {
	for _, o := range h.objects {
		if o.Class == "MSCluster_ResourceGroupToResource" && o.Values["PartComponent"] == any(resource) {
			group, _ := o.Values["GroupComponent"].(*Object)
			return group
		}
	}
	return nil
}
