package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// findProxy finds the VM that this program runs in. It is looked for once on each server, and again where it is gone.
func (t *byHotAdd) findProxy(ctx context.Context, c *Client) (*machine, error) {
	if !t.guest.isVMware() {
		return nil, hotUnfit("", "this machine is no VM of VMware, as far as its firmware tells")
	}
	t.mu.Lock()
	ref, known := t.found[c.Address()]
	t.mu.Unlock()
	if known {
		if m, err := c.machine(ctx, ref); !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	m, err := t.seekProxy(ctx, c)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found[c.Address()] = m.Self
	return m, nil
}

func (t *byHotAdd) seekProxy(ctx context.Context, c *Client) (*machine, error) {
	own, err := t.guest.uuids()
	if t.opts.Proxy != "" {
		return t.namedProxy(ctx, c, own)
	}
	if err != nil {
		return nil, err
	}
	refs, err := vmsOfUUID(ctx, c, own)
	switch {
	case err != nil:
		return nil, err
	case len(refs) == 0:
		return nil, hotUnfit("", "no VM of this server, that the user may see, has the UUID of this machine: %s", own[0])
	case len(refs) > 1:
		return nil, hotUnfit("name the one that this is (proxy=)", "%d VMs of this server have the UUID of this machine: %s", len(refs), own[0])
	}
	return c.machine(ctx, refs[0])
}

// vmsOfUUID asks for VMs by the UUID of their firmware, and where none has it, by the one that the server gave them: a VM may
// show that to its system.
func vmsOfUUID(ctx context.Context, c *Client, uuids []string) ([]types.ManagedObjectReference, error) {
	if c.vim.ServiceContent.SearchIndex == nil {
		return nil, hotUnfit("name the VM (proxy=)", "the server finds no VM by a UUID")
	}
	for _, instance := range []bool{false, true} {
		var found []types.ManagedObjectReference
		for _, uuid := range uuids {
			res, err := methods.FindAllByUuid(ctx, c.vim, &types.FindAllByUuid{
				This: *c.vim.ServiceContent.SearchIndex, Uuid: uuid, VmSearch: true, InstanceUuid: &instance})
			if err != nil {
				return nil, fmt.Errorf("VM with UUID %s: %w", uuid, err)
			}
			for _, ref := range res.Returnval {
				if ref.Type == "VirtualMachine" && !slices.Contains(found, ref) {
					found = append(found, ref)
				}
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

// namedProxy is the VM that the user says this machine is. Who it is not, by its UUID, is refused: a disk would be attached to a
// VM that knows nothing of it.
func (t *byHotAdd) namedProxy(ctx context.Context, c *Client, own []string) (*machine, error) {
	found, err := c.Find(ctx, Selection{VMs: []string{t.opts.Proxy}})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, hotUnfit("", "proxy VM %q: %v", t.opts.Proxy, err)
	}
	if err != nil {
		return nil, err
	}
	refs := Refs(found)
	if len(refs) != 1 {
		return nil, hotUnfit("", "proxy VM %q: there are %d", t.opts.Proxy, len(refs))
	}
	m, err := c.machine(ctx, refs[0])
	if err != nil {
		return nil, err
	}
	is := func(uuid string) bool {
		return slices.ContainsFunc(own, func(o string) bool { return strings.EqualFold(o, uuid) })
	}
	if len(own) > 0 && !is(m.Config.Uuid) && !is(m.Config.InstanceUuid) {
		return nil, hotUnfit("", "proxy VM %s has the UUID %s, and this machine has %s: it is another one", m.Name, m.Config.Uuid, own[0])
	}
	return m, nil
}

// proxyFit says what a VM lacks that disks are to be attached to. Nothing of it is changed.
func proxyFit(proxy *machine) error {
	if lacks := proxyLacks(proxy); len(lacks) > 0 {
		return hotUnfit(lacks[0].hint, "proxy VM %s: %s", proxy.Name, lacks[0].what)
	}
	return nil
}

type proxyLack struct{ what, hint string }

func proxyLacks(proxy *machine) (out []proxyLack) {
	lack := func(what, hint string) { out = append(out, proxyLack{what, hint}) }
	if !proxy.on() {
		lack("it is not running: this program does not run in it", "")
	}
	if !showsDiskIDs(proxy.Config) {
		lack("its disks do not tell their UUIDs", "set disk.EnableUUID to TRUE in its advanced parameters while it is off")
	}
	if !slices.ContainsFunc(proxy.Config.Hardware.Device, func(d types.BaseVirtualDevice) bool { return hotDriver(d) != "" }) {
		lack("it has no SCSI controller of the kinds that disks are attached to", "add one: VMware Paravirtual")
	} else if len(hotSlots(proxy.Config.Hardware.Device)) == 0 {
		lack("all places of its SCSI controllers are taken", "add a controller: VMware Paravirtual")
	}
	return out
}

// showsDiskIDs: the guest sees which disk is which.
func showsDiskIDs(config *types.VirtualMachineConfigInfo) bool {
	if isTrue(config.Flags.DiskUuidEnabled) {
		return true
	}
	for _, o := range config.ExtraConfig {
		if v := o.GetOptionValue(); v != nil && strings.EqualFold(v.Key, "disk.EnableUUID") {
			return strings.EqualFold(fmt.Sprint(v.Value), "true")
		}
	}
	return false
}

// mayAttach says why a disk must not be attached to the proxy VM.
func (t *byHotAdd) mayAttach(ctx context.Context, p *Pinned, proxy *machine) error {
	d := p.Disk
	switch {
	case proxy.Self == p.VM:
		return hotUnfit("", "it is a disk of the VM that this program runs in")
	case d.File == "" || isRaw(d.Virtual):
		return hotUnfit("", "the disk is not a file of its own: it is a raw device")
	case d.UUID == "":
		return hotUnfit("", "the disk has no UUID: nobody could tell it among those of this machine")
	case strings.HasPrefix(d.Slot, "ide"):
		return hotUnfit("move it to a SCSI controller", "the disk hangs on an IDE controller")
	case d.Encrypted && proxy.Config.KeyId == nil:
		return hotUnfit("encrypt the proxy VM", "the disk is encrypted, and the proxy VM %s is not", proxy.Name)
	case d.Size <= 0 || d.Size%512 != 0:
		return hotUnfit("", "a disk of %d bytes", d.Size)
	}
	for _, there := range disksOf(proxy.Config.Hardware.Device) {
		if strings.EqualFold(there.UUID, d.UUID) || there.standsOn(d.File) {
			return hotUnfit("", "a disk with its UUID hangs on the proxy VM %s already, at %s", proxy.Name, there.Slot)
		}
	}
	if p.Client.IsVCenter() {
		if err := sameDatacenter(ctx, p, proxy); err != nil {
			return err
		}
	}
	return t.reaches(ctx, p, proxy)
}

func isRaw(v *types.VirtualDisk) bool {
	if v == nil {
		return false
	}
	_, raw := v.Backing.(*types.VirtualDiskRawDiskMappingVer1BackingInfo)
	return raw
}

func sameDatacenter(ctx context.Context, p *Pinned, proxy *machine) error {
	here, err := datacenterOf(ctx, p.Client, proxy.Self)
	if err != nil {
		return err
	}
	there, err := datacenterOf(ctx, p.Client, p.VM)
	if err != nil {
		return err
	}
	if here != there {
		return hotUnfit("run it in a proxy VM of that datacenter", "the VM lies in datacenter %s, and the proxy VM %s in %s", there, proxy.Name, here)
	}
	return nil
}

// reaches looks whether the host of the proxy has the datastore of the disk. For vSAN that is: it is a host of that cluster, or
// the datastore is mounted there.
func (t *byHotAdd) reaches(ctx context.Context, p *Pinned, proxy *machine) error {
	host := deref(proxy.Runtime.Host)
	if p.Disk.Datastore.Value == "" || host.Value == "" {
		return hotUnfit("", "it is not known on which datastore the disk lies, or on which host the proxy VM %s runs", proxy.Name)
	}
	var ds mo.Datastore
	if err := p.Client.properties(ctx, p.Disk.Datastore, []string{"summary", "host"}, &ds); err != nil {
		return fmt.Errorf("datastore %s: %w", p.Disk.Datastore.Value, err)
	}
	i := slices.IndexFunc(ds.Host, func(m types.DatastoreHostMount) bool { return m.Key == host })
	switch {
	case i < 0:
		return hotUnfit("run it on a host that has the datastore", "datastore %s is not mounted on the host of the proxy VM %s (%s)", ds.Summary.Name, proxy.Name, proxy.host)
	case ds.Host[i].MountInfo.Accessible != nil && !*ds.Host[i].MountInfo.Accessible,
		ds.Host[i].MountInfo.Mounted != nil && !*ds.Host[i].MountInfo.Mounted:
		return hotUnfit("", "datastore %s is not accessible on the host of the proxy VM %s (%s)", ds.Summary.Name, proxy.Name, proxy.host)
	case strings.EqualFold(ds.Summary.Type, "NFS") && host != p.Host && !t.opts.AcrossHosts:
		return hotUnfit("run a proxy VM on the VM's own host", "datastore %s is NFS 3, and the VM runs on another host than the proxy VM %s: it would stand still for seconds (VMware KB 2010953)", ds.Summary.Name, proxy.Name)
	}
	return nil
}

// proxy looks at the VM that disks are to be attached to.
func (f *preflight) proxy(ctx context.Context) error {
	if f.o.Proxy.Value == "" || !slices.Contains(f.o.Transports, HotAdd) {
		return nil
	}
	m, err := f.c.machine(ctx, f.o.Proxy)
	if cannot(err) || errors.Is(err, fs.ErrNotExist) {
		f.found(Weak, "VM "+f.o.Proxy.Value, "disks cannot be attached to it: it cannot be looked at", "")
		return nil
	}
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	object := fmt.Sprintf("VM %s (%s)", m.Name, m.Self.Value)
	for _, l := range proxyLacks(m) {
		f.found(Weak, object, "disks cannot be attached to it: "+l.what, l.hint)
	}
	if m.Snapshot != nil {
		f.found(Note, object, "it has snapshots: hosts may refuse to detach disks from it", "remove its snapshots")
	}
	t := newHotAdd(nil)
	for _, d := range f.m.disks {
		if d.Skip != "" {
			continue
		}
		p := &Pinned{Client: f.c, VM: f.m.Self, Host: deref(f.m.Runtime.Host), Name: f.m.Name, Disk: d}
		var unfit *UnfitError
		switch err := t.mayAttach(ctx, p, m); {
		case errors.As(err, &unfit):
			f.found(Note, fmt.Sprintf("%s, disk %s (%s)", f.object(), d.Slot, d.Key), "it cannot be attached: "+unfit.Reason, unfit.Hint)
		case err != nil:
			return fmt.Errorf("proxy: %w", err)
		}
	}
	return nil
}
