package files

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fstab"
)

// readTable reads the /etc/fstab of a tree.
func readTable(t *Tree) ([]fstab.Line, error) {
	f, err := t.Open("etc/fstab")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fs.ErrInvalid)
	}
	data, err := io.ReadAll(io.LimitReader(f, fstab.MaxBytes))
	if err != nil {
		return nil, err
	}
	return fstab.Parse(data), nil
}

// follow mounts what the table names, the shortest path first, so that what is mounted below finds its directory.
func (m *Machine) follow(table []fstab.Line) {
	table = slices.DeleteFunc(table, func(l fstab.Line) bool { return !strings.HasPrefix(l.At, "/") || path.Clean(l.At) == "/" })
	slices.SortStableFunc(table, func(a, b fstab.Line) int { return cmp.Compare(len(path.Clean(a.At)), len(path.Clean(b.At))) })
	for _, l := range table {
		v := m.find(l)
		if v == nil || v.FS == nil || v.Mount != "" {
			continue
		}
		name := strings.TrimPrefix(path.Clean(l.At), "/")
		at, err := m.root.walk("mount", name, true)
		if err != nil {
			m.Notes = append(m.Notes, fmt.Sprintf("%s is to be mounted on %s, which cannot be found: %v", v.Name, l.At, err))
			continue
		}
		m.root.mount(at, v.FS)
		v.Mount = path.Clean(l.At)
	}
}

// find is the volume that a line of the table means, where only one fits.
func (m *Machine) find(l fstab.Line) *Volume {
	var found *Volume
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if !l.Means(v.names(m.disks() == 1)) {
			continue
		}
		if found != nil {
			return nil
		}
		found = v
	}
	return found
}

func (m *Machine) disks() int {
	keys := map[string]bool{}
	for _, v := range m.Volumes {
		for _, p := range v.Places() {
			keys[p.Disk] = true
		}
	}
	return len(keys)
}

// names are those that a table may call the volume by.
func (v *Volume) names(oneDisk bool) fstab.Names {
	n := fstab.Names{Volume: v.Name, UUID: v.Info.UUID, Label: v.Info.Label, PartLabel: v.Label}
	if _, number, ok := strings.Cut(v.Name, ":"); ok && oneDisk {
		n.Partition, _ = strconv.Atoi(number) // what is no number is no partition: zero
	}
	return n
}
