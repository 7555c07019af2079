package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// file is a disk's file that is open for writing.
type file interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	Flush(ctx context.Context) error
	Commit(ctx context.Context) error // closes it in good order
	Close() error                     // closes it as a power cut does
}

// drive is one virtual disk of a VM: the files that it is made of, and what the guest sees. Its VM's mu guards it.
type drive struct {
	g        *Guest
	resource *Object // Msvm_StorageAllocationSettingData
	size     int64
	vhd      bool

	nodes []*node
	tip   *node
	file  file   // the tip, while it is open
	left  string // the tip's DataWriteGuid when it was closed: whoever wrote to it since shows by that

	model  *content
	frozen *content
	track  tracking
}

// node is one file of a disk's tree. Each but the tip is only read.
type node struct {
	name    string // as the host calls it
	parent  *node
	named   *checkpoint        // whose state it is; nil: nobody's
	mark    string             // the id of the moment at which it was frozen; empty: none was given
	written map[int64]struct{} // pages that it holds itself; nil: it was found, and all of it counts
	fresh   map[int64]struct{} // of those, what came since a merge began; nil: none goes on
	merging bool
	stuck   bool // a merge into it failed: it is tried again when something else is removed
	gone    bool // it went into its parent
}

// adopt makes a drive of a file that exists, with its parents.
func (g *Guest) adopt(resource *Object, name string) (*drive, error) {
	d := &drive{g: g, resource: resource}
	return d, d.load(name)
}

// load reads what the files hold now, whoever wrote them.
func (d *drive) load(name string) error {
	h := d.g.h
	path, err := h.volumePath(name)
	if err != nil {
		return err
	}
	img, err := vhdx.Open(context.Background(), path, h.openOptions(path))
	if err != nil {
		return err
	}
	defer img.Close()
	var below *node
	files := img.Files()
	for i, f := range slices.Backward(files) {
		n := &node{name: h.nameOf(f, name), parent: below}
		if i == 0 {
			n.name = name
		}
		d.nodes, below = append(d.nodes, n), n
	}
	d.tip, d.size, d.vhd = below, img.Size(), img.Info().Format == "vhd"
	if d.left = img.Info().DataWrite.String(); d.vhd {
		if d.left, err = changed(path); err != nil {
			return err
		}
	}
	d.model = newContent(d.size)
	if err := d.model.fill(img); err != nil {
		return err
	}
	d.frozen = d.model.clone()
	return nil
}

// reload reads what the tip holds after somebody else wrote to it. The tree of files is as it was.
func (d *drive) reload() error {
	other, err := d.g.adopt(d.resource, d.tip.name)
	if err != nil {
		return err
	}
	d.model, d.size, d.left = other.model, other.size, other.left
	d.tip.written = nil
	return nil
}

// nameOf is how the host calls a file of this machine that lies beside another.
func (h *Host) nameOf(path, beside string) string {
	if dir, err := h.volumePath(folderOf(beside)); err == nil {
		if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
			return folderOf(beside) + `\` + strings.ReplaceAll(rel, string(filepath.Separator), `\`)
		}
	}
	if rel, err := filepath.Rel(h.dir, path); err == nil && filepath.IsLocal(rel) {
		parts := strings.Split(rel, string(filepath.Separator))
		if parts[0] == "UNC" {
			return `\\` + strings.Join(parts[1:], `\`)
		}
		return parts[0] + `:\` + strings.Join(parts[1:], `\`)
	}
	return folderOf(beside) + `\` + filepath.Base(path)
}

// openOptions lets parents lie anywhere in the host's own folder.
func (h *Host) openOptions(path string) *vhdx.Options {
	o := &vhdx.Options{Live: true, CacheBytes: 8 << 20}
	if rel, err := filepath.Rel(h.dir, path); err == nil && filepath.IsLocal(rel) {
		o.Folder = h.dir
	}
	return o
}

// fill takes what an image holds.
func (c *content) fill(img pipe.ExtentImage) error {
	buf := make([]byte, 1<<20)
	for e, err := range img.Extents(context.Background(), 0, img.Size()) {
		if err != nil {
			return err
		}
		if e.Kind != pipe.Data {
			continue
		}
		for off := e.Off; off < e.End(); {
			p := buf[:min(int64(len(buf)), e.End()-off)]
			if n, err := img.ReadAt(context.Background(), p, off); n < len(p) {
				return errors.Join(err, io.ErrUnexpectedEOF)
			}
			c.write(off, p)
			off += int64(len(p))
		}
	}
	return nil
}

// refresh reads the disk anew where somebody else wrote to its tip while it was closed: it is another disk now.
func (d *drive) refresh() error {
	if d.file != nil {
		return nil
	}
	now, err := d.identity()
	if err != nil || now == d.left {
		return err
	}
	return d.reload()
}

// now is what the disk holds at this moment. A file that cannot be read fails whatever is done with it next.
func (d *drive) now() *content {
	_ = d.refresh()
	return d.model.clone()
}

// open opens the tip for writing.
func (d *drive) open() error {
	if d.file != nil {
		return nil
	}
	if err := d.refresh(); err != nil {
		return err
	}
	h := d.g.h
	path, err := h.volumePath(d.tip.name)
	if err != nil {
		return err
	}
	if d.vhd {
		d.file, err = openVHD(path)
		return err
	}
	f, err := vhdx.OpenDisk(context.Background(), path, h.openOptions(path))
	if err != nil {
		return err
	}
	d.file = f
	return nil
}

func changed(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return info.ModTime().String(), nil
}

// shut closes the tip in good order.
func (d *drive) shut() error {
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	if err := f.Commit(context.Background()); err != nil {
		return err
	}
	return d.remember()
}

// crash leaves the tip as it is: whoever opens it finds its log in use.
func (d *drive) crash() error {
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	if err := errors.Join(f.Flush(context.Background()), f.Close()); err != nil {
		return err
	}
	return d.remember()
}

// remember notes which content the tip has: whenever it is closed, and whenever another file becomes the tip.
func (d *drive) remember() (err error) {
	d.left, err = d.identity()
	return err
}

// identity is what changes with the tip's content. A VHD has nothing but its time of change to tell by.
func (d *drive) identity() (string, error) {
	if !d.vhd {
		return d.g.h.dataWrite(d.tip.name)
	}
	path, err := d.g.h.volumePath(d.tip.name)
	if err != nil {
		return "", err
	}
	return changed(path)
}

// dataWrite is a file's DataWriteGuid.
func (h *Host) dataWrite(name string) (string, error) {
	path, err := h.volumePath(name)
	if err != nil {
		return "", err
	}
	img, err := vhdx.Open(context.Background(), path, h.openOptions(path))
	if err != nil {
		return "", err
	}
	defer img.Close()
	return img.Info().DataWrite.String(), nil
}

// write is the guest's.
func (d *drive) write(off int64, p []byte) error {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return fmt.Errorf("disk of %d bytes: write of %d at %d: %w", d.size, len(p), off, fs.ErrInvalid)
	}
	if len(p) == 0 {
		return nil
	}
	if err := d.open(); err != nil {
		return err
	}
	if _, err := d.file.WriteAt(context.Background(), p, off); err != nil {
		return err
	}
	d.model.write(off, p)
	if d.g.h.eventFault(d.g.id, "track") != nil {
		d.track.reset()
	} else {
		d.track.record(off, int64(len(p)))
	}
	for page := off / pageBytes; page*pageBytes < off+int64(len(p)); page++ {
		if d.tip.written != nil {
			d.tip.written[page] = struct{}{}
		}
		if d.tip.fresh != nil {
			d.tip.fresh[page] = struct{}{}
		}
	}
	return nil
}

// child makes a new file on the tip. The tip is closed: it is only read from now on.
func (d *drive) child(name string) error {
	h := d.g.h
	if err := d.shut(); err != nil {
		return err
	}
	parent, err := h.volumePath(d.tip.name)
	if err != nil {
		return err
	}
	path, err := h.volumePath(name)
	if err != nil {
		return err
	}
	if d.vhd {
		return createChildVHD(path, parent, d.tip.name)
	}
	t, err := vhdx.Create(context.Background(), path, 0, &vhdx.CreateOptions{Parent: parent, ParentName: d.tip.name, Open: *h.openOptions(parent)})
	if err != nil {
		return err
	}
	return errors.Join(t.Commit(context.Background()), os.Chmod(path, 0o644))
}

// fork makes a child the tip, and says which node it was until now.
func (d *drive) fork(name string) (*node, error) {
	old := d.tip
	d.tip = &node{name: name, parent: old, written: map[int64]struct{}{}}
	d.nodes = append(d.nodes, d.tip)
	d.show()
	return old, d.remember()
}

// show tells in the settings which file is written into.
func (d *drive) show() {
	if d.resource != nil {
		d.resource.Set("HostResource", []string{d.tip.name})
	}
}

// children of a node.
func (d *drive) children(n *node) (list []*node) {
	for _, c := range d.nodes {
		if c.parent == n {
			list = append(list, c)
		}
	}
	return list
}

// drop removes a node's file and forgets it.
func (d *drive) drop(n *node) error {
	d.nodes = slices.DeleteFunc(d.nodes, func(c *node) bool { return c == n })
	return d.g.h.remove(n.name)
}

// childName is that of a checkpoint's child: <disk>_<GUID>.avhdx, of the disk at the chain's end.
func (d *drive) childName(guid string) string {
	n := d.tip
	for n.parent != nil {
		n = n.parent
	}
	base, ending := stem(n.name)
	if strings.EqualFold(ending, ".vhd") {
		return base + "_" + guid + ".avhd"
	}
	return base + "_" + guid + ".avhdx"
}
