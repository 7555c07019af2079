package vmwaretest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// Image is a disk file with all that it stands on, as the server's own services read and write it. While it is open no file
// of its chain is merged or removed. Its methods may be called at once.
type Image struct {
	vm    *VM
	disk  *Disk
	layer *layer
	write bool
	once  sync.Once
}

var _ pipe.ExtentImage = (*Image)(nil)

// OpenDisk opens a disk file of a VM by its datastore path. Errors are fs.ErrNotExist, and fs.ErrPermission for writing to
// what is not the running file of a VM that is off.
func (s *Server) OpenDisk(path string, write bool) (*Image, error) {
	for _, v := range s.VMs() {
		for _, d := range v.Disks() {
			if img, err := d.Open(path, write); err == nil || !os.IsNotExist(err) {
				return img, err
			}
		}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// Open is [Server.OpenDisk] for files of this disk: of its chain, and of those that its snapshots hold. An empty path is the
// running file.
func (d *Disk) Open(path string, write bool) (*Image, error) {
	on := d.vm.PoweredOn()
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	l := d.find(path)
	switch {
	case l == nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	case l == d.top && on || write && (l != d.top || on):
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	for _, p := range l.own() {
		p.opens++
	}
	return &Image{vm: d.vm, disk: d, layer: l, write: write}, nil
}

func (d *Disk) find(path string) *layer {
	if path == "" {
		return d.top
	}
	for _, l := range d.files {
		if l.name.String() == path {
			return l
		}
	}
	return nil
}

// Size implements [pipe.Image].
func (i *Image) Size() int64 { return i.layer.size }

// Writable reports whether WriteAt may work.
func (i *Image) Writable() bool { return i.write }

// ReadAt implements [pipe.Image].
func (i *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	i.vm.mu.Lock()
	defer i.vm.mu.Unlock()
	n := int(min(int64(len(p)), max(i.layer.size-off, 0)))
	if err := i.layer.read(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes to the disk of a VM that is off. Its change tracker notes it.
func (i *Image) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	i.vm.mu.Lock()
	defer i.vm.mu.Unlock()
	if !i.write {
		return 0, fmt.Errorf("write at %d: %w", off, fs.ErrPermission)
	}
	if err := i.disk.write(off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Extents implements [pipe.ExtentImage].
func (i *Image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > i.layer.size || n > i.layer.size-off {
			yield(pipe.Extent{}, fmt.Errorf("extents at %d: %w", off, fs.ErrInvalid))
			return
		}
		for at := off; at < off+n; {
			if err := ctx.Err(); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			e := i.extent(at, off+n)
			if !yield(e, nil) {
				return
			}
			at = e.End()
		}
	}
}

func (i *Image) extent(off, end int64) pipe.Extent {
	i.vm.mu.Lock()
	defer i.vm.mu.Unlock()
	n, written := i.layer.allocated(off, end)
	e := pipe.Extent{Off: off, Len: n, Kind: pipe.Zero}
	if written {
		e.Kind = pipe.Data
	}
	return e
}

// Close lets the files be merged again.
func (i *Image) Close() error {
	i.once.Do(func() {
		i.vm.mu.Lock()
		defer i.vm.mu.Unlock()
		for _, p := range i.layer.own() {
			p.opens--
		}
	})
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
