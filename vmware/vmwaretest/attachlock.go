package vmwaretest

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/vim25/types"
)

// hold is who has a file of a datastore.
type hold struct {
	used    bool   // it belongs to the disks of a VM that is registered
	top     bool   // that VM writes to it
	running bool   // and is on
	data    bool   // content, not a descriptor
	written bool   // another VM has it attached for writing
	key     string // of the disk's encryption; empty: none
}

// locked reports whether nobody else may read the file.
func (h hold) locked() bool { return h.data && (h.top && h.running || h.written) }

// holdOf looks a file up among the disks of all VMs.
func (s *Server) holdOf(file string) (h hold) {
	for _, v := range s.VMs() {
		on := v.PoweredOn()
		v.mu.Lock()
		for _, d := range v.disks {
			for _, l := range d.files {
				name := l.name.String()
				data := path.Join(path.Dir(name), path.Base(l.extent()))
				if file != name && file != data && file != strings.TrimSuffix(name, ".vmdk")+"-ctk.vmdk" {
					continue
				}
				h.used, h.data = true, h.data || file != name
				if file != name {
					h.key = d.crypto
				}
				h.top = h.top || l == d.top
				h.running = h.running || on && l == d.top
				for _, a := range s.extras.attachments.of(name, v.ref) {
					h.written = h.written || a.write
				}
			}
		}
		v.mu.Unlock()
	}
	return h
}

// inUse reports whether a disk cannot be changed or deleted: a VM that runs has it or stands on it, or another VM has it attached.
func (s *Server) inUse(file string) bool {
	if len(s.extras.attachments.of(file, types.ManagedObjectReference{})) > 0 {
		return true
	}
	for _, v := range s.VMs() {
		if !v.PoweredOn() {
			continue
		}
		v.mu.Lock()
		found := false
		for _, d := range v.disks {
			for _, l := range d.files {
				found = found || l.name.String() == file
			}
		}
		v.mu.Unlock()
		if found {
			return true
		}
	}
	return false
}

// inUseBelow is inUse for a folder with all that is in it, or one file.
func (s *Server) inUseBelow(name string) bool {
	below := func(file string) bool {
		return file == name || strings.HasPrefix(file, strings.TrimSuffix(name, "/")+"/")
	}
	for _, a := range s.extras.attachments.list() {
		if below(a.file) {
			return true
		}
	}
	for _, v := range s.VMs() {
		if !v.PoweredOn() {
			continue
		}
		v.mu.Lock()
		found := false
		for _, d := range v.disks {
			for _, l := range d.files {
				data := path.Join(path.Dir(l.name.String()), path.Base(l.extent()))
				found = found || below(l.name.String()) || below(data)
			}
		}
		v.mu.Unlock()
		if found {
			return true
		}
	}
	return false
}

// lockedFor reports whether a VM that runs cannot open a disk file: to write it, if anybody has it; to read it, if somebody
// writes it.
func (s *Server) lockedFor(vm types.ManagedObjectReference, file string, write bool) bool {
	for _, a := range s.extras.attachments.of(file, vm) {
		if write || a.write {
			return true
		}
	}
	for _, v := range s.VMs() {
		if v.ref == vm || !v.PoweredOn() {
			continue
		}
		v.mu.Lock()
		locked := false
		for _, d := range v.disks {
			for _, l := range d.files {
				locked = locked || l.name.String() == file && (write || l == d.top)
			}
		}
		v.mu.Unlock()
		if locked {
			return true
		}
	}
	return false
}

// openFile opens the disk of a datastore path with what it stands on, whether a VM has it or not. While it is open no file of a
// VM's disk is merged.
func (s *Server) openFile(ctx context.Context, file string) (pipe.Image, error) {
	img, err := s.OpenDisk(file, false)
	if err == nil {
		return img, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	local, err := s.LocalFile(file)
	if err != nil {
		return nil, errors.Join(fs.ErrNotExist, err)
	}
	return vmdk.Open(ctx, local, &vmdk.Options{Allow: s.datastoreFolders(), Live: true})
}
