package vmwaretest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// nasDisk is where a disk's descriptor lies on a mount.
type nasDisk struct {
	*nas
	dir  []byte // handle of its folder
	base string
}

// nasStore is a flat file on a mount. Nobody can tell what of it was written.
type nasStore struct {
	*nas
	file nasFile
	size int64
}

func (s *nasStore) next(off, end int64) (int64, bool)      { return end - off, true }
func (s *nasStore) allocated(off, end int64) (int64, bool) { return end - off, true }
func (s *nasStore) readAt(p []byte, off int64) error       { return s.read(s.file, p, off) }
func (s *nasStore) writeAt(p []byte, off int64) error      { return s.write(s.file, p, off) }
func (s *nasStore) grain() int64                           { return 1 }
func (s *nasStore) bytes() int64                           { return s.size }
func (s *nasStore) resize(int64) error                     { return errors.ErrUnsupported }
func (s *nasStore) close() error                           { return nil }
func (d *nasDisk) remove() error                           { return d.nas.remove(d.dir, d.base, false) }
func (s *Server) onNAS(name object.DatastorePath) (n *nas) { return s.nases.of(name.Datastore) }

// openExisting opens a flat disk that is there, on whatever the datastore is.
func (s *Server) openExisting(name object.DatastorePath, local string) (*layer, error) {
	if n := s.onNAS(name); n != nil {
		return n.disk(name, local)
	}
	return openBase(name, local)
}

// disk opens a flat disk by its descriptor on the mount.
func (n *nas) disk(name object.DatastorePath, local string) (*layer, error) {
	at := &nasDisk{nas: n, dir: n.root, base: path.Base(name.Path)}
	if dir := path.Dir(name.Path); dir != "." {
		f, err := n.lookup(n.root, dir)
		if err != nil {
			return nil, err
		}
		at.dir = f.handle
	}
	d, err := at.descriptor()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name.String(), err)
	}
	flat, err := n.lookup(at.dir, d.Extents[0].File)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name.String(), err)
	}
	l := &layer{name: name, local: local, cid: d.CID, kind: d.CreateType, ddb: d.DDB, size: d.Extents[0].Sectors * sector, fresh: true, nas: at}
	if flat.size != l.size {
		return nil, fmt.Errorf("%s: its flat file is of %d bytes, and %d are said", name.String(), flat.size, l.size)
	}
	l.store = &nasStore{n, flat, l.size}
	return l, nil
}

const maxDescriptor = 64 << 10

func (d *nasDisk) descriptor() (*vmdk.Descriptor, error) {
	f, err := d.lookup(d.dir, d.base)
	if err != nil {
		return nil, err
	}
	if f.size > maxDescriptor {
		return nil, fmt.Errorf("a descriptor of %d bytes", f.size)
	}
	text := make([]byte, f.size)
	if err := d.read(f, text, 0); err != nil {
		return nil, err
	}
	out, err := vmdk.ParseDescriptor(d.base, text)
	if err != nil {
		return nil, err
	}
	if out.ParentCID != vmdk.NoParent || len(out.Extents) != 1 || out.Extents[0].Type != "VMFS" && out.Extents[0].Type != "FLAT" {
		return nil, fmt.Errorf("it is no flat disk of one file: %w", errors.ErrUnsupported)
	}
	return out, nil
}

// describe writes the descriptor anew, as a whole or not at all.
func (d *nasDisk) describe(text []byte) error {
	if err := d.put(d.dir, d.base+".tmp", text); err != nil {
		return err
	}
	return d.rename(d.dir, d.base+".tmp", d.base)
}

// reach reads each disk's descriptor, and its first and last sector, where they are on a mount: without them a guest does not
// start.
func (v *VM) reach() types.BaseMethodFault {
	for _, d := range v.disks {
		l := d.top.base()
		if l.nas == nil {
			continue
		}
		_, err := l.nas.descriptor()
		for _, off := range []int64{0, l.size - sector} {
			if err == nil {
				err = l.store.readAt(make([]byte, sector), off)
			}
		}
		if err != nil {
			return fileFault(l.name.String(), err)
		}
	}
	return nil
}

// moving is a disk on its way from a mount to a datastore.
type moving struct {
	layer *layer
	name  object.DatastorePath
	local string
	store *flatStore
}

// leaveNAS copies disks that are on mounts into the machine's folder on a datastore, and leads the machine to the copies when
// all of them are there. The machine's lock is held.
func (v *VM) leaveNAS(ctx *simulator.Context, to *simulator.Datastore) types.BaseMethodFault {
	var vmx object.DatastorePath
	vm := v.sim()
	ctx.WithLock(vm, func() { vmx.FromString(vm.Config.Files.VmPathName) })
	var all []moving
	for _, d := range v.disks {
		for _, l := range d.files {
			if l.nas == nil || l.name.Datastore == to.Name {
				continue
			}
			m, err := v.copyOut(l, to, path.Dir(vmx.Path))
			if err != nil {
				for _, done := range all {
					_ = done.store.close()
					os.Remove(done.store.file.Name())
				}
				return fileFault(l.name.String(), err)
			}
			all = append(all, m)
		}
	}
	for _, m := range all {
		if err := v.switchTo(ctx, m, to); err != nil {
			return fileFault(m.name.String(), err)
		}
	}
	return nil
}

func (v *VM) copyOut(l *layer, to *simulator.Datastore, folder string) (m moving, err error) {
	m = moving{layer: l, name: object.DatastorePath{Datastore: to.Name, Path: path.Join(folder, path.Base(l.name.Path))}}
	m.local = filepath.Join(to.Summary.Url, filepath.FromSlash(m.name.Path))
	if err := os.MkdirAll(filepath.Dir(m.local), 0o700); err != nil {
		return m, err
	}
	if m.store, err = createFlat(extentName(m.local, "vmfs"), l.size); err != nil {
		return m, err
	}
	buf, zeros := make([]byte, trackGrain), make([]byte, trackGrain)
	for off := int64(0); off < l.size; off += trackGrain {
		p := buf[:min(trackGrain, l.size-off)]
		err := l.store.readAt(p, off)
		if err == nil && !bytes.Equal(p, zeros[:len(p)]) {
			err = m.store.writeAt(p, off)
		}
		if err != nil {
			return m, errors.Join(err, m.store.close(), os.Remove(m.store.file.Name()))
		}
	}
	return m, nil
}

func (v *VM) switchTo(ctx *simulator.Context, m moving, to *simulator.Datastore) error {
	l, old := m.layer, v.s.datastore(m.layer.name.Datastore)
	v.s.forget(l)
	l.name, l.local, l.store, l.nas, l.kind = m.name, m.local, m.store, nil, "vmfs"
	v.s.keep(l)
	vm := v.sim()
	ctx.WithLock(vm, func() {
		ctx.Update(vm, []types.PropertyChange{{Name: "datastore", Val: []types.ManagedObjectReference{to.Self}}})
	})
	if old != nil {
		v.s.reg.RemoveReference(ctx, old, &old.Vm, v.ref)
	}
	v.s.reg.RemoveReference(ctx, to, &to.Vm, v.ref)
	v.s.reg.AddReference(ctx, to, &to.Vm, v.ref)
	return l.describe()
}
