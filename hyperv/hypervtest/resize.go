package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// alone: a disk whose chain has one file can be changed as a whole.
func (g *Guest) alone(n int) (*drive, error) {
	d, err := g.drive(n)
	if err != nil {
		return nil, err
	}
	if len(d.nodes) > 1 {
		return nil, &FaultError{Code: 32775, Reason: "the disk is in a checkpoint: " + d.tip.name}
	}
	return d, nil
}

// Extend makes a disk longer, running or not: its VirtualDiskId stays, and what was known of changes goes. Its chain has to be one file.
func (g *Guest) Extend(disk int, size int64) error {
	defer g.hold()()
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.alone(disk)
	if err != nil {
		return err
	}
	if size < d.size {
		return fmt.Errorf("disk of %d bytes to %d: %w", d.size, size, fs.ErrInvalid)
	}
	if err := d.shut(); err != nil {
		return err
	}
	if err := d.rewrite(size); err != nil {
		return err
	}
	name := d.tip.name
	d.nodes = nil
	if err := d.load(name); err != nil {
		return err
	}
	d.track.reset()
	g.h.event(Event{Actor: "host", Name: "extend", VM: g.id, Detail: fmt.Sprintf("%s to %d", name, size)})
	if g.on {
		return d.open()
	}
	return nil
}

// rewrite makes the disk's file anew with another length.
func (d *drive) rewrite(size int64) error {
	h := d.g.h
	path, err := h.volumePath(d.tip.name)
	if err != nil {
		return err
	}
	img, err := vhdx.Open(context.Background(), path, h.openOptions(path))
	if err != nil {
		return err
	}
	info := img.Info()
	if err := img.Close(); err != nil {
		return err
	}
	o := &vhdx.CreateOptions{Type: info.Type, BlockSize: info.BlockSize, SectorSize: info.SectorSize, DiskID: info.DiskID}
	o.Overwrite = true
	var t pipe.Target
	if d.vhd {
		t, err = vhdx.CreateVHD(context.Background(), path, size, o)
	} else {
		t, err = vhdx.Create(context.Background(), path, size, o)
	}
	if err != nil {
		return err
	}
	for _, page := range slices.Sorted(maps.Keys(d.model.pages)) {
		off := page * pageBytes
		if _, err := t.WriteAt(context.Background(), d.model.pages[page][:min(pageBytes, size-off)], off); err != nil {
			return errors.Join(err, t.Close())
		}
	}
	return errors.Join(t.Commit(context.Background()), os.Chmod(path, 0o644))
}

// Replace puts another disk, new or by a file that exists, in the place of one. The old file stays where it is. Its chain has to be one file.
func (g *Guest) Replace(disk int, with Disk) error {
	defer g.hold()()
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.alone(disk)
	if err != nil {
		return err
	}
	if with.Path == "" {
		base, ending := stem(d.tip.name)
		with.Path = base + "-" + strings.ToLower(newGUID())[:8] + ending
	}
	if err := g.h.makeDisk(&VM{Folder: g.folder}, &with, disk); err != nil {
		return err
	}
	if err := d.shut(); err != nil {
		return err
	}
	other, err := g.adopt(d.resource, with.Path)
	if err != nil {
		return err
	}
	g.drives[disk] = other
	other.show()
	g.h.event(Event{Actor: "host", Name: "replace", VM: g.id, Detail: d.tip.name + " by " + with.Path})
	if g.on {
		return other.open()
	}
	return nil
}
