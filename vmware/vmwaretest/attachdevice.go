package vmwaretest

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/hikae/hikae/pipe"
)

// attachedDevice is an open disk of the guest: one of its own, or one that was attached.
type attachedDevice struct {
	p    *Proxy
	disk *guestDisk
	own  *Disk
	img  pipe.Image
	fd   *os.File // a file that no VM has
}

// take opens what is attached.
func (d *attachedDevice) take(ctx context.Context, a attachment) (err error) {
	switch {
	case a.made != nil:
		d.img = a.held.again(a.made, false)
	case a.held != nil:
		d.img = a.held.again(a.held.layer, a.write)
	default:
		if d.img, err = d.p.s.openFile(ctx, a.file); err == nil && a.write {
			if d.fd, err = d.p.s.writeFile(a.file); err != nil {
				err = errors.Join(err, d.img.Close())
			}
		}
	}
	return err
}

// again opens a file of the image's disk once more. It is kept from being merged until both are closed.
func (i *Image) again(l *layer, write bool) *Image {
	i.vm.mu.Lock()
	defer i.vm.mu.Unlock()
	for _, p := range l.own() {
		p.opens++
	}
	return &Image{vm: i.vm, disk: i.disk, layer: l, write: write}
}

// ReadAt implements guestDevice.
func (d *attachedDevice) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if !d.p.attached(d.disk.attachment) {
		return 0, syscall.EIO
	}
	if d.own == nil {
		return d.img.ReadAt(ctx, p, off)
	}
	if off >= d.disk.size {
		return 0, io.EOF
	}
	got, err := d.own.Read(off, int(min(int64(len(p)), d.disk.size-off)))
	return copy(p, got), err
}

// WriteAt implements guestDevice.
func (d *attachedDevice) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if !d.p.attached(d.disk.attachment) {
		return 0, syscall.EIO
	}
	if off < 0 || off+int64(len(p)) > d.disk.size {
		return 0, syscall.ENOSPC
	}
	if d.own != nil {
		return len(p), d.own.Write(off, p)
	}
	if img, ok := d.img.(*Image); ok {
		return img.WriteAt(ctx, p, off)
	}
	if d.fd == nil {
		return 0, syscall.EBADF
	}
	return d.fd.WriteAt(p, off)
}

// Close implements guestDevice.
func (d *attachedDevice) Close() error {
	var err error
	if d.img != nil {
		err = d.img.Close()
	}
	if d.fd != nil {
		err = errors.Join(err, d.fd.Close())
	}
	return err
}
