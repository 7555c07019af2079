package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	maxStores   = 256  // datastores of one VM
	maxFileName = 4096 // bytes of a path on a datastore
	volumes     = "/vmfs/volumes/"
)

// store is one datastore of a VM.
type store struct {
	ref        types.ManagedObjectReference
	name       string // as in "[name] folder/file"
	kind       string // VMFS, NFS, NFS41, vsan, VVOL …
	id         string // as in /vmfs/volumes/ID
	datacenter string // path of it in the inventory
	accessible bool
}

// stores are the datastores that a VM has files on. Nothing else is reached, whatever a descriptor says.
type stores []store

// storesOf asks for the datastores of a VM.
func storesOf(ctx context.Context, c *Client, vm types.ManagedObjectReference) (stores, error) {
	pc := property.DefaultCollector(c.Vim())
	var m mo.VirtualMachine
	if err := pc.RetrieveOne(ctx, vm, []string{"datastore"}, &m); err != nil {
		return nil, fmt.Errorf("datastores of %s: %w", vm.Value, err)
	}
	if len(m.Datastore) == 0 || len(m.Datastore) > maxStores {
		return nil, fmt.Errorf("%s has %d datastores", vm.Value, len(m.Datastore))
	}
	var all []mo.Datastore
	if err := pc.Retrieve(ctx, m.Datastore, []string{"summary"}, &all); err != nil {
		return nil, fmt.Errorf("datastores of %s: %w", vm.Value, err)
	}
	dc, err := datacenterOf(ctx, c, vm)
	if err != nil {
		return nil, err
	}
	var out stores
	for _, d := range all {
		out = append(out, store{d.Self, d.Summary.Name, d.Summary.Type, path.Base(strings.TrimRight(d.Summary.Url, "/")), dc, d.Summary.Accessible})
	}
	return out, nil
}

// datacenterOf is the path of the datacenter that an object lies in, each name as the inventory has it.
func datacenterOf(ctx context.Context, c *Client, ref types.ManagedObjectReference) (string, error) {
	above, err := mo.Ancestors(ctx, c.Vim(), c.Vim().ServiceContent.PropertyCollector, ref)
	if err != nil {
		return "", fmt.Errorf("datacenter of %s: %w", ref.Value, err)
	}
	at := "/"
	for _, e := range above {
		if e.Parent == nil { // the root folder, which no path names
			continue
		}
		at = path.Join(at, e.Name)
		if e.Self.Type == "Datacenter" {
			return at, nil
		}
	}
	return "", fmt.Errorf("%s lies in no datacenter", ref.Value)
}

func (s stores) named(name string) (store, bool) {
	for _, d := range s {
		if d.name == name {
			return d, true
		}
	}
	return store{}, false
}

// place is a file on a datastore.
type place struct {
	store
	file string // with slashes, clean, below the datastore's root
}

func (p place) String() string { return "[" + p.name + "] " + p.file }

// find finds "[datastore] folder/file".
func (s stores) find(file string) (place, error) {
	var at object.DatastorePath
	if !at.FromString(file) {
		return place{}, fmt.Errorf("%q is no file of a datastore", file)
	}
	d, ok := s.named(at.Datastore)
	if !ok {
		return place{}, fmt.Errorf("%q: the VM has nothing on that datastore: %w", file, fs.ErrNotExist)
	}
	return d.below(at.Path)
}

// below is a file on the datastore. What leads out of it is refused.
func (s store) below(name string) (place, error) {
	clean := path.Clean(name)
	if clean == "." || clean == ".." || strings.HasPrefix(clean, "../") || path.IsAbs(clean) || len(clean) > maxFileName || strings.ContainsFunc(clean, isControlRune) {
		return place{}, fmt.Errorf("%q leads out of datastore %s: %w", name, s.name, fs.ErrPermission)
	}
	return place{s, clean}, nil
}

func isControlRune(r rune) bool { return r < ' ' || r == 0x7f }

// storeFolder is the folder of a disk on its datastore, for package vmdk. Files lie in it or beside it on the same datastore, or
// below /vmfs/volumes on another one of the VM: a linked clone's base does.
type storeFolder struct {
	stores stores
	home   place // of the disk
	open   func(context.Context, place) (pipe.Image, error)
}

// Open implements [vmdk.Folder].
func (f *storeFolder) Open(ctx context.Context, name string) (pipe.Image, error) {
	at, err := f.locate(name)
	if err != nil {
		return nil, err
	}
	return f.open(ctx, at)
}

func (f *storeFolder) locate(name string) (place, error) {
	if !path.IsAbs(name) {
		return f.home.below(path.Join(path.Dir(f.home.file), name))
	}
	rest, ok := strings.CutPrefix(path.Clean(name), volumes)
	volume, file, deep := strings.Cut(rest, "/")
	if !ok || !deep {
		return place{}, fmt.Errorf("%q is on no datastore: %w", name, fs.ErrPermission)
	}
	for _, d := range f.stores {
		if d.id == volume || d.name == volume {
			return d.below(file)
		}
	}
	return place{}, fmt.Errorf("%q: the VM has nothing on that datastore: %w", name, fs.ErrPermission)
}

// diskFiles finds a disk's datastore and file, and whether its content is in files that can be read.
func diskFiles(ctx context.Context, name string, p *Pinned) (stores, place, error) {
	unfit := func(hint, format string, args ...any) (stores, place, error) {
		return nil, place{}, &UnfitError{Transport: name, Reason: fmt.Sprintf(format, args...), Hint: hint}
	}
	if p.Disk.Encrypted {
		return unfit("", "the disk is encrypted, and its files hold what nobody here can read")
	}
	if p.Snapshot.Value == "" && p.PoweredOn {
		return unfit("", "the VM runs, and the host lets nobody read a disk that it writes to")
	}
	all, err := storesOf(ctx, p.Client, p.VM)
	if err != nil {
		return nil, place{}, err
	}
	at, err := all.find(p.Disk.File)
	if err != nil {
		return nil, place{}, err
	}
	switch strings.ToLower(at.kind) {
	case "vsan", "vsand", "vvol", "pmem":
		return unfit("", "datastore %s is of kind %s, where a disk's content is in no file", at.name, at.kind)
	}
	if !at.accessible {
		return unfit("", "datastore %s is not accessible", at.name)
	}
	err = hasExtents(ctx, name, p)
	return all, at, err
}

// hasExtents looks in the VM's own list of its files: where a disk has some and none of them holds content, that lies
// elsewhere.
func hasExtents(ctx context.Context, name string, p *Pinned) error {
	var m mo.VirtualMachine
	err := property.DefaultCollector(p.Client.Vim()).RetrieveOne(ctx, p.VM, []string{"layoutEx"}, &m)
	if err != nil {
		return fmt.Errorf("files of %s: %w", p.VM.Value, err)
	}
	if m.LayoutEx == nil {
		return nil
	}
	kinds := map[int32]string{}
	for _, f := range m.LayoutEx.File {
		kinds[f.Key] = f.Type
	}
	files, extents := 0, 0
	for _, d := range m.LayoutEx.Disk {
		if d.Key != p.Disk.Device {
			continue
		}
		for _, unit := range d.Chain {
			for _, key := range unit.FileKey {
				files++
				if kinds[key] == string(types.VirtualMachineFileLayoutExFileTypeDiskExtent) {
					extents++
				}
			}
		}
	}
	if files > 0 && extents == 0 {
		return &UnfitError{Transport: name, Reason: "none of the disk's files holds its content"}
	}
	return nil
}

// asUnfit keeps what kept a transport from being asked at all among the refusals, whatever kind of error it is.
func asUnfit(name string, err error) error {
	var unfit *UnfitError
	if err == nil || errors.As(err, &unfit) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
