package vmwaretest

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/object"
)

// layer is one disk of a chain: a descriptor, and the file below it. Its VM's lock guards it.
type layer struct {
	name   object.DatastorePath // of the descriptor
	local  string               // the descriptor on this machine
	parent *layer
	size   int64
	cid    vmdk.CID
	kind   string // createType
	ddb    map[string]string
	store  store
	opens  int      // images that read or write it
	clones int      // disks of other machines that stand on it
	linked bool     // its parent is another machine's
	fresh  bool     // nothing was written since it was made
	nas    *nasDisk // nil: it lies on this machine
}

// extentName is the name of the file below a descriptor.
func extentName(descriptor, kind string) string {
	base := strings.TrimSuffix(descriptor, ".vmdk")
	switch kind {
	case "seSparse":
		return base + "-sesparse.vmdk"
	case "vmfsSparse":
		return base + "-delta.vmdk"
	}
	return base + "-flat.vmdk"
}

// newBase makes an empty disk.
func newBase(name object.DatastorePath, local string, size int64, uuid string, thin bool) (*layer, error) {
	ddb := map[string]string{
		"adapterType": "lsilogic", "virtualHWVersion": "19", "uuid": spaced(uuid), "longContentID": randomHex(16),
		"geometry.cylinders": fmt.Sprint(max(size/sector/(255*63), 1)), "geometry.heads": "255", "geometry.sectors": "63",
	}
	if thin {
		ddb["thinProvisioned"] = "1"
	}
	l := &layer{name: name, local: local, size: size, cid: newCID(), kind: "vmfs", ddb: ddb, fresh: true}
	var err error
	if l.store, err = createFlat(l.extent(), size); err != nil {
		return nil, err
	}
	if err := l.describe(); err != nil {
		return nil, errors.Join(err, l.store.close())
	}
	return l, nil
}

// openBase opens a flat disk that is there.
func openBase(name object.DatastorePath, local string) (*layer, error) {
	text, err := os.ReadFile(local)
	if err != nil {
		return nil, err
	}
	d, err := vmdk.ParseDescriptor(local, text)
	if err != nil {
		return nil, err
	}
	if d.ParentCID != vmdk.NoParent || len(d.Extents) != 1 || d.Extents[0].Type != "VMFS" && d.Extents[0].Type != "FLAT" {
		return nil, fmt.Errorf("%s is no flat disk of one file: %w", name.String(), errors.ErrUnsupported)
	}
	l := &layer{name: name, local: local, cid: d.CID, kind: d.CreateType, ddb: d.DDB, size: d.Extents[0].Sectors * sector}
	flat, err := openFlat(l.extent())
	if err != nil {
		return nil, err
	}
	if flat.size < l.size {
		if err := flat.resize(l.size); err != nil {
			return nil, errors.Join(err, flat.close())
		}
	}
	l.store = flat
	return l, nil
}

// child makes a delta over l, which nobody writes to from then on.
func (l *layer) child(name object.DatastorePath, local string, format DeltaFormat) (*layer, error) {
	c := &layer{name: name, local: local, parent: l, size: l.size, cid: l.cid, kind: "seSparse", ddb: map[string]string{}, fresh: true}
	if format == COWD {
		c.kind = "vmfsSparse"
	}
	c.ddb["longContentID"] = l.ddb["longContentID"]
	s, err := createSparse(c.extent(), c.size, format)
	if err != nil {
		return nil, err
	}
	c.store = s
	if err := c.describe(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return c, nil
}

func (l *layer) extent() string { return extentName(l.local, l.kind) }

// describe writes the descriptor, as a whole or not at all: somebody may be reading it.
func (l *layer) describe() error {
	types := map[string]string{"seSparse": "SESPARSE", "vmfsSparse": "VMFSSPARSE"}
	d := vmdk.Descriptor{CID: l.cid, ParentCID: vmdk.NoParent, CreateType: l.kind, DDB: l.ddb, Extents: []vmdk.ExtentLine{{
		Access: vmdk.ReadWrite, Sectors: up(l.size, sector) / sector, Type: "VMFS", File: path.Base(l.extent()),
	}}}
	if t := types[l.kind]; t != "" {
		d.Extents[0].Type = t
	}
	if l.parent != nil {
		d.ParentCID, d.ParentHint = l.parent.cid, l.parent.local
		if path.Dir(l.local) == path.Dir(l.parent.local) {
			d.ParentHint = path.Base(l.parent.local)
		}
	}
	if l.nas != nil {
		return l.nas.describe(d.Append(nil))
	}
	if err := os.WriteFile(l.local+".tmp", d.Append(nil), 0o600); err != nil {
		return err
	}
	return os.Rename(l.local+".tmp", l.local)
}

// read fills p from off on, of this disk with all that it stands on.
func (l *layer) read(p []byte, off int64) error {
	for len(p) > 0 {
		n, held := l.store.next(off, off+int64(len(p)))
		var err error
		switch {
		case held:
			err = l.store.readAt(p[:n], off)
		case l.parent != nil:
			err = l.parent.read(p[:n], off)
		default:
			clear(p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// write writes to this disk. The first write of all gives it another content id, as the guest's first one does.
func (l *layer) write(p []byte, off int64) error {
	if l.fresh {
		l.cid, l.fresh = newCID(), false
		if err := l.describe(); err != nil {
			return err
		}
	}
	return l.put(p, off)
}

// put fills up grains that are written to in part.
func (l *layer) put(p []byte, off int64) error {
	g := l.store.grain()
	start, end := off/g*g, up(off+int64(len(p)), g)
	if start == off && end == off+int64(len(p)) {
		return l.store.writeAt(p, off)
	}
	buf := make([]byte, end-start)
	if err := l.read(buf, start); err != nil {
		return err
	}
	copy(buf[off-start:], p)
	return l.store.writeAt(buf, start)
}

// allocated is the length of the run at off, and whether any disk of the chain was written to there.
func (l *layer) allocated(off, end int64) (int64, bool) {
	n, written := l.store.allocated(off, end)
	if written || l.parent == nil {
		return n, written
	}
	return l.parent.allocated(off, off+n)
}

// absorb writes what a child holds into l, which is then what the child was.
func (l *layer) absorb(child *layer) error {
	s, ok := child.store.(*sparseStore)
	if !ok {
		return fmt.Errorf("%s is no delta: %w", child.name.String(), errors.ErrUnsupported)
	}
	buf := make([]byte, s.form.grain)
	for _, g := range s.held() {
		off := g * s.form.grain
		if err := s.readAt(buf, off); err != nil {
			return err
		}
		if err := l.put(buf, off); err != nil {
			return err
		}
	}
	l.cid, l.fresh = child.cid, child.fresh
	return l.describe()
}

// chain are the disks that l stands on, itself first.
func (l *layer) chain() (out []*layer) {
	for ; l != nil; l = l.parent {
		out = append(out, l)
	}
	return out
}

// own are the disks of the chain that belong to the machine, itself first: the parent of a linked clone is another's.
func (l *layer) own() (out []*layer) {
	for ; l != nil; l = l.parent {
		if out = append(out, l); l.linked {
			break
		}
	}
	return out
}

// busy reports whether its files are read or written right now, or stood on by clones.
func (l *layer) busy() bool { return l.opens > 0 || l.clones > 0 }

// remove deletes its files.
func (l *layer) remove() error {
	if l.nas != nil {
		return l.nas.remove()
	}
	return errors.Join(l.store.close(), os.Remove(l.extent()), os.Remove(l.local))
}

func newCID() vmdk.CID {
	for {
		var b [4]byte
		rand.Read(b[:])
		if c := vmdk.CID(binary.LittleEndian.Uint32(b[:])); c != 0 && c < vmdk.NoParent-1 {
			return c
		}
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// newUUID is a disk's, in the range that VMware gives them.
func newUUID() string {
	h := "6000c29" + randomHex(13)[:25]
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// spaced is a UUID as descriptors and change ids have it: "60 00 c2 9f 06 72 4b 30-82 f1 …".
func spaced(uuid string) string {
	h := strings.ReplaceAll(uuid, "-", "")
	var b strings.Builder
	for i := 0; i+1 < len(h); i += 2 {
		switch i {
		case 0:
		case 16:
			b.WriteByte('-')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(h[i : i+2])
	}
	return b.String()
}
