package vmware

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// where is the place that a new VM is made in.
type where struct {
	in                 inventory
	datacenter, folder spot
	pool               types.ManagedObjectReference
	host               spot
	stores             []mo.Datastore // that the host reaches
	notes              []string
}

// place finds where a new VM goes: what is asked for, else what the record says, else what is the only one of its kind.
func (r *Restorer) place(ctx context.Context, vm hikae.VM) (*where, error) {
	in, err := r.client.inventory(ctx)
	if err != nil {
		return nil, err
	}
	w := &where{in: in}
	if err := w.findDatacenter(r.opts, vm.Facts); err != nil {
		return nil, err
	}
	if err := w.findFolder(ctx, r.client, r.opts.Folder); err != nil {
		return nil, err
	}
	return w, w.findHost(ctx, r.client, r.opts, vm.Facts)
}

func (w *where) findDatacenter(o RestorerOptions, facts map[string]string) (err error) {
	all := w.in.of("Datacenter")
	switch {
	case o.Datacenter != "":
		w.datacenter, err = w.in.pick("datacenter", all, o.Datacenter)
		return err
	case len(all) == 1:
		w.datacenter = all[0]
		return nil
	}
	for _, dc := range all {
		for _, h := range w.in.below(dc.ref, "HostSystem") {
			if name := o.Host; h.name == name || name == "" && h.name == facts["host"] {
				w.datacenter = dc
				return nil
			}
		}
	}
	return w.in.absent("datacenter", "", all)
}

func (w *where) findFolder(ctx context.Context, c *Client, name string) error {
	var dc mo.Datacenter
	if err := property.DefaultCollector(c.vim).RetrieveOne(ctx, w.datacenter.ref, []string{"vmFolder"}, &dc); err != nil {
		return fmt.Errorf("datacenter %s: %w", w.datacenter.name, err)
	}
	w.folder = spot{ref: dc.VmFolder, name: "vm", parent: w.datacenter.ref}
	if name == "" {
		return nil
	}
	var err error
	w.folder, err = w.in.pick("folder", w.in.below(dc.VmFolder, "Folder"), name)
	return err
}

// findHost finds the host and the pool. A host that is recorded and gone is a note where there is no choice, else an error.
func (w *where) findHost(ctx context.Context, c *Client, o RestorerOptions, facts map[string]string) error {
	hosts := w.in.below(w.datacenter.ref, "HostSystem")
	pools := w.in.below(w.datacenter.ref, "ResourcePool", "VirtualApp")
	var pool spot
	var err error
	if o.Pool != "" {
		if pool, err = w.in.pick("pool", pools, o.Pool); err != nil {
			return err
		}
		owner := w.ownerOf(pool.ref)
		hosts = slices.DeleteFunc(slices.Clone(hosts), func(h spot) bool { return h.parent != owner })
	}
	if w.host, err = w.chooseHost(ctx, c, hosts, o.Host, facts["host"]); err != nil {
		return err
	}
	if w.pool = pool.ref; o.Pool == "" {
		var owner mo.ComputeResource
		if err := property.DefaultCollector(c.vim).RetrieveOne(ctx, w.host.parent, []string{"resourcePool"}, &owner); err != nil {
			return fmt.Errorf("host %s: %w", w.host.name, err)
		}
		if owner.ResourcePool == nil {
			return w.in.absent("pool", "", pools)
		}
		w.pool = *owner.ResourcePool
	}
	return w.findStores(ctx, c)
}

// ownerOf is the host or cluster that a pool is a part of.
func (w *where) ownerOf(pool types.ManagedObjectReference) types.ManagedObjectReference {
	for range maxAncestors {
		s, ok := w.in[pool]
		if !ok || s.ref.Type != "ResourcePool" && s.ref.Type != "VirtualApp" {
			break
		}
		pool = s.parent
	}
	return pool
}

func (w *where) chooseHost(ctx context.Context, c *Client, hosts []spot, asked, recorded string) (spot, error) {
	if asked != "" {
		return w.in.pick("host", hosts, asked)
	}
	usable, err := usableHosts(ctx, c, hosts)
	if err != nil {
		return spot{}, err
	}
	for _, h := range usable {
		if h.name == recorded {
			return h, nil
		}
	}
	one := func(h spot) bool { return h.parent == usable[0].parent }
	if len(usable) == 0 || slices.ContainsFunc(usable, func(h spot) bool { return !one(h) }) {
		return spot{}, w.in.absent("host", recorded, usable)
	}
	if recorded != "" {
		w.notes = append(w.notes, fmt.Sprintf("host %s is not there or not in use: the VM is on %s", recorded, usable[0].name))
	}
	return usable[0], nil
}

// usableHosts are those that are connected and not being maintained.
func usableHosts(ctx context.Context, c *Client, hosts []spot) (out []spot, err error) {
	if len(hosts) == 0 {
		return nil, nil
	}
	var refs []types.ManagedObjectReference
	for _, h := range hosts {
		refs = append(refs, h.ref)
	}
	var all []mo.HostSystem
	if err := property.DefaultCollector(c.vim).Retrieve(ctx, refs, []string{"runtime.connectionState", "runtime.inMaintenanceMode"}, &all); err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	for _, h := range hosts {
		i := slices.IndexFunc(all, func(m mo.HostSystem) bool { return m.Self == h.ref })
		if i >= 0 && all[i].Runtime.ConnectionState == types.HostSystemConnectionStateConnected && !all[i].Runtime.InMaintenanceMode {
			out = append(out, h)
		}
	}
	return out, nil
}

func (w *where) findStores(ctx context.Context, c *Client) error {
	pc := property.DefaultCollector(c.vim)
	var h mo.HostSystem
	if err := pc.RetrieveOne(ctx, w.host.ref, []string{"datastore"}, &h); err != nil {
		return fmt.Errorf("host %s: %w", w.host.name, err)
	}
	if len(h.Datastore) == 0 {
		return nil
	}
	var all []mo.Datastore
	if err := pc.Retrieve(ctx, h.Datastore, []string{"summary"}, &all); err != nil {
		return fmt.Errorf("datastores of host %s: %w", w.host.name, err)
	}
	for _, d := range all {
		if d.Summary.Accessible {
			w.stores = append(w.stores, d)
		}
	}
	slices.SortFunc(w.stores, func(a, b mo.Datastore) int { return strings.Compare(a.Summary.Name, b.Summary.Name) })
	return nil
}

// store is a datastore by name.
func (w *where) store(name string) (mo.Datastore, error) {
	if name == "" && len(w.stores) == 1 {
		return w.stores[0], nil
	}
	var there []spot
	for _, d := range w.stores {
		if name != "" && (d.Summary.Name == name || d.Self.Value == name || w.in.path(d.Self) == name) {
			return d, nil
		}
		there = append(there, spot{name: d.Summary.Name})
	}
	e := w.in.absent("datastore", name, there)
	e.Hint = "these are what host " + w.host.name + " reaches"
	return mo.Datastore{}, e
}

// room looks whether disks that take up all of their room find it. What a thin disk will take up nobody knows before.
func (w *where) room(need map[string]int64) error {
	for _, d := range w.stores {
		if n := need[d.Summary.Name]; n > d.Summary.FreeSpace {
			return &RoomError{Datastore: d.Summary.Name, Need: n, Free: d.Summary.FreeSpace}
		}
	}
	return nil
}
