package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// Machine is what lies on the disks of a virtual machine.
type Machine struct {
	Volumes []Volume
	Notes   []string // what a person may want to know: a damaged backup of a partition table, an odd line of /etc/fstab

	ctx     context.Context // as in Tree
	root    *Tree
	volumes map[fsys.FileSystem]pipe.Image
}

// Volume is a partition, a logical volume or a whole disk.
type Volume struct {
	*layout.Volume
	Info    fsys.Info       // of its file system; without a Kind where it has none that can be read
	FS      fsys.FileSystem // nil: it has none that can be read
	Problem string          // why a file system cannot be read; empty also where there is none to be expected
	Mount   string          // where the machine itself mounts it, as /etc/fstab says; empty: not known
}

// Opener opens the file system of a volume, or answers [fsys.ErrOther] where it holds nothing that can be read.
type Opener func(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error)

// Open finds the volumes of a machine and opens their file systems. A volume that cannot be read is listed with its
// problem, and is no error. The disks' images stay the caller's, and must stay open.
//
// Everything that is read later is read with ctx.
func Open(ctx context.Context, disks []layout.Disk, open Opener) (*Machine, error) {
	found, err := layout.Read(ctx, disks)
	if err != nil {
		return nil, err
	}
	m := &Machine{ctx: ctx, Notes: found.Notes, volumes: map[fsys.FileSystem]pipe.Image{}}
	for _, v := range found.Volumes {
		vol, img := Volume{Volume: v}, v.Image()
		switch vol.FS, err = open(ctx, img); {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			vol.Info = vol.FS.Info()
			m.volumes[vol.FS] = img
		case !errors.Is(err, fsys.ErrOther):
			vol.Problem = err.Error()
		case v.Whole != "":
			vol.Problem = v.Whole
		}
		m.Volumes = append(m.Volumes, vol)
	}
	m.mount()
	return m, nil
}

// Tree shows one volume by its name, or with an empty name the whole machine as it mounts its volumes itself: the root
// directory is that of the volume that has /etc/fstab, or of the only one that can be read. Errors wrap fs.ErrNotExist.
func (m *Machine) Tree(volume string) (*Tree, error) {
	if volume == "" {
		if m.root == nil {
			return nil, fmt.Errorf("no volume is known to be the root: name one: %w", fs.ErrNotExist)
		}
		return m.root, nil
	}
	for _, v := range m.Volumes {
		if v.Name != volume {
			continue
		}
		if v.FS == nil {
			return nil, fmt.Errorf("volume %s has no file system that can be read%s: %w", volume, because(v.Problem), fs.ErrNotExist)
		}
		return m.tree(v.FS), nil
	}
	return nil, fmt.Errorf("volume %q: %w", volume, fs.ErrNotExist)
}

// tree shows a file system of the machine. Unlike with [FS] alone it is known what was left out of the disks.
func (m *Machine) tree(f fsys.FileSystem) *Tree {
	t := FS(m.ctx, f)
	t.volumes = m.volumes
	return t
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// mount puts the volumes together.
func (m *Machine) mount() {
	readable := 0
	var only *Volume
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if v.FS == nil {
			continue
		}
		readable, only = readable+1, v
		tree := m.tree(v.FS)
		table, err := readTable(tree)
		if err != nil {
			continue
		}
		if m.root != nil {
			m.Notes = append(m.Notes, fmt.Sprintf("%s has an /etc/fstab too: it is not put together with the rest", v.Name))
			continue
		}
		m.root = tree
		v.Mount = "/"
		m.follow(table)
	}
	if m.root == nil && readable == 1 {
		m.root = m.tree(only.FS)
	}
}
