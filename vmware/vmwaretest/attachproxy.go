package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/vmware/govmomi/vim25/types"
)

// Proxy is a VM as its own guest sees it, mounted as a folder: the root of a Linux with /sys and /dev, as far as a program needs
// them that finds disks which were attached to its machine.
//
//	sys/class/dmi/id/product_uuid …   who the machine is
//	sys/class/scsi_host/hostN/        controllers: proc_name, scan
//	sys/class/scsi_disk/H:C:T:L/      disks by address; device/block/sdX leads to the name
//	sys/block/sdX/                    size, device/wwid, device/delete, …
//	dev/sdX                           content, as the chain that hangs there reads
//	dev/disk/by-id/wwn-0x…            by the disk's UUID, where disk.EnableUUID is TRUE, as on real VMs
//
// Disks come and go as the VM is changed, and an open one that goes away answers EIO. What is not real: the devices are regular
// files, so that BLKGETSIZE64 and other ioctls fail; reads bypass the page cache whether O_DIRECT was asked for or not, and need
// no alignment; a disk that keeps no writes refuses them with EROFS, where a real one would take and forget them.
type Proxy struct {
	s       *Server
	vm      types.ManagedObjectReference
	root    string
	unmount func() error

	mu        sync.Mutex // all below
	needsScan bool
	current   *guestView
	pending   *guestView // not seen before a scan
	tree      map[string]*entry
	count     uint64
	swapped   bool
}

// guestTree is what a mounted view asks.
type guestTree interface {
	entries() map[string]*entry
	open(ctx context.Context, d *guestDisk, write bool) (guestDevice, error)
	scan()
}

// guestDevice is an open disk.
type guestDevice interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// proxies are the views that are mounted, by VM.
type proxies struct {
	mu  sync.Mutex
	all map[types.ManagedObjectReference]*Proxy
}

// Proxy mounts the view that the guest of a VM has, or returns the one that is there. It goes with the server. The error says what
// is missing where nothing can be mounted: it needs FUSE on Linux.
func (s *Server) Proxy(name string) (*Proxy, error) {
	v := s.VM(name)
	if v == nil {
		return nil, fmt.Errorf("VM %.64q: %w", name, fs.ErrNotExist)
	}
	ref := v.ref
	all := &s.extras.proxies
	all.mu.Lock()
	defer all.mu.Unlock()
	if p := all.all[ref]; p != nil {
		return p, nil
	}
	p := &Proxy{s: s, vm: ref}
	p.refresh()
	root, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return nil, err
	}
	if p.unmount, err = mountGuest(root, p); err != nil {
		return nil, errors.Join(err, os.Remove(root))
	}
	p.root = root
	if all.all == nil {
		all.all = map[types.ManagedObjectReference]*Proxy{}
	}
	all.all[ref] = p
	return p, nil
}

// Root is where the guest's root is mounted.
func (p *Proxy) Root() string { return p.root }

// RequireScan says whether new disks are seen only after something was written to a scan file, as with some controllers.
func (p *Proxy) RequireScan(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.needsScan = on
}

// SwapUUID says whether product_uuid has its first three fields in the other byte order than vSphere shows, as virtual machines of
// newer hardware versions have it.
func (p *Proxy) SwapUUID(on bool) {
	p.mu.Lock()
	p.swapped = on
	p.mu.Unlock()
	p.refresh()
}

// Close unmounts the view.
func (p *Proxy) Close() error {
	all := &p.s.extras.proxies
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.all[p.vm] != p {
		return nil
	}
	delete(all.all, p.vm)
	return errors.Join(p.unmount(), os.Remove(p.root))
}

func (a *proxies) close() error {
	a.mu.Lock()
	var open []*Proxy
	for _, p := range a.all {
		open = append(open, p)
	}
	a.mu.Unlock()
	var errs []error
	for _, p := range open {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// changed shows a VM's new disks, where its guest's view is mounted.
func (a *proxies) changed(vm types.ManagedObjectReference) {
	a.mu.Lock()
	p := a.all[vm]
	a.mu.Unlock()
	if p != nil {
		p.refresh()
	}
}

// refresh looks at the VM again. What was there before keeps its name and its open files.
func (p *Proxy) refresh() {
	v := p.s.viewOf(p.vm)
	p.mu.Lock()
	defer p.mu.Unlock()
	v.swapped = p.swapped
	known := p.current
	if p.pending != nil {
		known = p.pending
	}
	var taken []string
	for _, d := range v.disks {
		if old := known.find(d); old != nil {
			d.name, d.attachment = old.name, old.attachment
			taken = append(taken, d.name)
		}
	}
	for _, d := range v.disks {
		for n := 0; d.name == ""; n++ {
			if name := deviceName(n); !slices.Contains(taken, name) {
				p.count++
				d.name, d.attachment = name, p.count
				taken = append(taken, name)
			}
		}
	}
	if p.needsScan && p.current != nil {
		p.pending = v
		p.show(p.current.without(v))
		return
	}
	p.pending = nil
	p.show(v)
}

func (p *Proxy) show(v *guestView) { p.current, p.tree = v, v.tree() }

// find is the disk that was there before: the same device with the same file.
func (v *guestView) find(d *guestDisk) *guestDisk {
	if v == nil {
		return nil
	}
	for _, old := range v.disks {
		if old.key == d.key && old.file == d.file {
			return old
		}
	}
	return nil
}

// without is the view less what is in the other one no more: a disk that goes away is seen at once.
func (v *guestView) without(other *guestView) *guestView {
	out := *v
	out.disks = slices.DeleteFunc(slices.Clone(v.disks), func(d *guestDisk) bool { return other.find(d) == nil })
	return &out
}

// entries implements guestTree.
func (p *Proxy) entries() map[string]*entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tree
}

// scan implements guestTree.
func (p *Proxy) scan() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending != nil {
		v := p.pending
		p.pending = nil
		p.show(v)
	}
}

// open implements guestTree.
func (p *Proxy) open(ctx context.Context, d *guestDisk, write bool) (guestDevice, error) {
	if !p.attached(d.attachment) {
		return nil, syscall.ENXIO
	}
	if write && !d.write {
		return nil, syscall.EROFS
	}
	device := &attachedDevice{p: p, disk: d}
	for _, a := range p.s.extras.attachments.list() {
		if a.vm == p.vm && a.key == d.key {
			return device, device.take(ctx, a)
		}
	}
	v := p.s.VMByRef(p.vm)
	if v == nil {
		return nil, syscall.ENXIO
	}
	device.own = v.DiskByKey(d.key)
	return device, nil
}

func (p *Proxy) attached(n uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.current.disks, func(d *guestDisk) bool { return d.attachment == n })
}
