package vmware

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	maxPlaces    = 200_000 // folders, hosts, datastores … of one server
	maxAncestors = 64      // from an object up to the root
	maxListed    = 50      // names in an error
)

// spot is a part of the inventory that VMs are made in or on.
type spot struct {
	ref    types.ManagedObjectReference
	name   string // as people see it
	parent types.ManagedObjectReference
}

// inventory is all of a server but its VMs.
type inventory map[types.ManagedObjectReference]spot

// Kinds of spots. Each has kinds of its own below it: a cluster is a ComputeResource, a vApp a ResourcePool, a distributed port
// group a Network.
var spotKinds = []string{"Folder", "Datacenter", "ComputeResource", "HostSystem", "ResourcePool", "Datastore", "Network"}

func (c *Client) inventory(ctx context.Context) (inventory, error) {
	v, err := view.NewManager(c.vim).CreateContainerView(ctx, c.vim.ServiceContent.RootFolder, spotKinds, true)
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		defer cancel()
		_ = v.Destroy(end) // it ends with the session at the latest
	}()
	var all []types.ObjectContent // a network or a datastore has a name of its own, which a ManagedEntity does not take
	if err := v.Retrieve(ctx, spotKinds, []string{"name", "parent"}, &all); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	if len(all) > maxPlaces {
		return nil, fmt.Errorf("inventory: %d objects are more than the %d that are looked at", len(all), maxPlaces)
	}
	in := inventory{}
	for _, o := range all {
		var e mo.ManagedEntity
		if err := nodeOf(o, &e); err != nil {
			return nil, fmt.Errorf("inventory: %w", err)
		}
		in[o.Obj] = spot{o.Obj, plainName(e.Name), deref(e.Parent)}
	}
	return in, nil
}

// plainName undoes how the API writes a slash, a backslash and a percent sign in a name.
func plainName(name string) string {
	return strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%").Replace(name)
}

// path is where a spot lies: "/DC0/vm/linux".
func (in inventory) path(ref types.ManagedObjectReference) string {
	at := ""
	for s, ok := in[ref]; ok && strings.Count(at, "/") < maxAncestors; s, ok = in[s.parent] {
		at = "/" + s.name + at
	}
	return at
}

// within reports whether a spot is another one, or lies below it.
func (in inventory) within(ref, above types.ManagedObjectReference) bool {
	for range maxAncestors {
		if ref == above {
			return true
		}
		s, ok := in[ref]
		if !ok {
			return false
		}
		ref = s.parent
	}
	return false
}

// of are the spots of some kinds, sorted by their paths.
func (in inventory) of(kinds ...string) []spot {
	var out []spot
	for ref, s := range in {
		if slices.Contains(kinds, ref.Type) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b spot) int {
		return cmp.Or(strings.Compare(in.path(a.ref), in.path(b.ref)), strings.Compare(a.ref.Value, b.ref.Value))
	})
	return out
}

// below are the spots of some kinds that lie below another one.
func (in inventory) below(above types.ManagedObjectReference, kinds ...string) []spot {
	return slices.DeleteFunc(in.of(kinds...), func(s spot) bool { return s.ref == above || !in.within(s.ref, above) })
}

// pick finds the one that is named, by its name, its path, or the end of its path.
func (in inventory) pick(what string, among []spot, name string) (spot, error) {
	var found []spot
	for _, s := range among {
		if p := in.path(s.ref); s.ref.Value == name || p == path.Clean("/"+name) {
			return s, nil
		} else if s.name == name || strings.HasSuffix(p, "/"+strings.Trim(name, "/")) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return spot{}, in.absent(what, name, among)
	}
	err := in.absent(what, name, found)
	err.Name, err.Hint = "", fmt.Sprintf("%q is the name of each of them: name its path", name)
	return spot{}, err
}

func (in inventory) absent(what, name string, there []spot) *AbsentError {
	e := &AbsentError{What: what, Name: name}
	for _, s := range there[:min(len(there), maxListed)] {
		if p := in.path(s.ref); p != "" {
			e.There = append(e.There, p)
		} else {
			e.There = append(e.There, s.name)
		}
	}
	return e
}

// byInstance finds a VM by its instance UUID, which is ours alone where we chose it.
func (c *Client) byInstance(ctx context.Context, uuid string) (ref types.ManagedObjectReference, ok bool, err error) {
	instance := true
	res, err := methods.FindByUuid(ctx, c.vim, &types.FindByUuid{
		This: *c.vim.ServiceContent.SearchIndex, Uuid: uuid, VmSearch: true, InstanceUuid: &instance,
	})
	if err != nil {
		return ref, false, fmt.Errorf("find the VM with instance UUID %s: %w", uuid, err)
	}
	return deref(res.Returnval), res.Returnval != nil, nil
}

// byName finds a VM or anything else of that name in a folder.
func (c *Client) byName(ctx context.Context, folder types.ManagedObjectReference, name string) (ref types.ManagedObjectReference, ok bool, err error) {
	res, err := methods.FindChild(ctx, c.vim, &types.FindChild{This: *c.vim.ServiceContent.SearchIndex, Entity: folder, Name: name})
	if err != nil {
		return ref, false, fmt.Errorf("look for %q: %w", name, err)
	}
	return deref(res.Returnval), res.Returnval != nil, nil
}
