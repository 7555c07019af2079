package fatdisk

import (
	"io/fs"
	"path"
	"strings"
)

// place is a name in a folder, and the entry that it has there.
type place struct {
	folder uint16
	name   [11]byte
	vacant int64
	entry  entry
	found  bool
}

// walk finds a path. With make, missing folders on the way are made.
func (d *Disk) walk(op, name string, make bool) (place, error) {
	fail := func(err error) (place, error) { return place{}, &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) || name == "." {
		return fail(fs.ErrInvalid)
	}
	folder := uint16(0)
	parts := strings.Split(name, "/")
	for i, part := range parts {
		p, err := d.look(folder, part)
		if err != nil {
			return fail(err)
		}
		if i == len(parts)-1 {
			return p, nil
		}
		switch {
		case p.found && p.entry.folder():
			folder = p.entry.first
		case p.found:
			return fail(fs.ErrInvalid)
		case !make:
			return fail(fs.ErrNotExist)
		default:
			if folder, err = d.makeFolder(folder, p.vacant, p.name); err != nil {
				return fail(err)
			}
		}
	}
	panic("fatdisk: a path without parts")
}

func (d *Disk) look(folder uint16, part string) (place, error) {
	name, err := shortName(part)
	if err != nil {
		return place{}, err
	}
	entries, vacant, err := d.list(folder)
	if err != nil {
		return place{}, err
	}
	p := place{folder: folder, name: name, vacant: vacant}
	for _, e := range entries {
		if e.name == name {
			p.entry, p.found = e, true
		}
	}
	return p, nil
}

// WriteFile adds a file, or replaces one. Folders on the way are made. Names are separated by slashes.
func (d *Disk) WriteFile(name string, data []byte) error {
	p, err := d.walk("write", name, true)
	if err != nil {
		return err
	}
	if p.found && p.entry.folder() {
		return &fs.PathError{Op: "write", Path: name, Err: fs.ErrExist}
	}
	if err := d.replace(p, data); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

func (d *Disk) replace(p place, data []byte) error {
	e := entry{name: p.name, attr: attrFile, size: uint32(len(data))}
	size := int(d.vol.clusterSize())
	if len(data) > 0 {
		chain, err := d.allocate((len(data) + size - 1) / size)
		if err != nil {
			return err
		}
		e.first = chain[0]
		for i, c := range chain {
			if err := d.write(data[i*size:min(len(data), (i+1)*size)], d.vol.clusterOff(c)); err != nil {
				return err
			}
		}
	}
	if p.found {
		if err := d.release(p.entry.first); err != nil {
			return err
		}
		p.vacant = p.entry.off
	}
	if err := d.flush(); err != nil {
		return err
	}
	return d.add(p.folder, p.vacant, e)
}

// ReadFile returns a file's content.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	p, err := d.walk("read", name, false)
	if err != nil {
		return nil, err
	}
	if !p.found || p.entry.folder() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if p.entry.size == 0 {
		return nil, nil
	}
	chain, err := d.chain(p.entry.first)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	data := make([]byte, int64(len(chain))*d.vol.clusterSize())
	if int64(p.entry.size) > int64(len(data)) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errForeign}
	}
	for i, c := range chain {
		at := int64(i) * d.vol.clusterSize()
		if _, err := d.f.ReadAt(data[at:at+d.vol.clusterSize()], d.vol.clusterOff(c)); err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
	}
	return data[:p.entry.size], nil
}

// Remove removes a file. Its content stays in the free clusters, as on every real disk.
func (d *Disk) Remove(name string) error {
	p, err := d.walk("remove", name, false)
	if err != nil {
		return err
	}
	if !p.found || p.entry.folder() {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if err := d.release(p.entry.first); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	if err := d.write([]byte{removed}, p.entry.off); err != nil {
		return err
	}
	return d.flush()
}

// File is a file on the disk.
type File struct {
	Name string
	Size int64
}

// maxDepth bounds how deep folders are followed: deeper than any that this package makes in practice.
const maxDepth = 32

// Files lists all files, folder by folder.
func (d *Disk) Files() ([]File, error) {
	var out []File
	var visit func(folder uint16, prefix string, depth int) error
	visit = func(folder uint16, prefix string, depth int) error {
		entries, _, err := d.list(folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(prefix, e.String())
			switch {
			case !e.folder():
				out = append(out, File{name, int64(e.size)})
			case depth >= maxDepth:
				return &fs.PathError{Op: "list", Path: name, Err: fs.ErrInvalid}
			default:
				if err := visit(e.first, name, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, visit(0, "", 0)
}
