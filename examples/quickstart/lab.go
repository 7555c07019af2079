package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hikae/hikae/internal/fatdisk"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// lab is a fake vSphere with one VM.
type lab struct {
	server *vmwaretest.Server
	client *vmware.Client
}

func newLab(ctx context.Context, disk string, size int64) (l *lab, err error) {
	l = &lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
			l = nil
		}
	}()
	if l.server, err = vmwaretest.Start(&vmwaretest.Options{VMs: 1, DiskBytes: size}); err != nil {
		return l, err
	}
	if err = l.write(disk, []fatdisk.Range{{Len: size}}); err != nil {
		return l, err
	}
	who := vmware.Login{User: l.server.User(), Password: l.server.Password()}
	l.client, err = vmware.Connect(ctx, l.server.URL(), who, &vmware.ConnectOptions{Thumbprint: l.server.Thumbprint()})
	return l, err
}

// write has the guest write what stands at these places of a file; zeros are left out where a whole area is zero.
func (l *lab) write(path string, ranges []fatdisk.Range) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	disk, area := l.server.VM("web0").Disk(0), make([]byte, 64<<10)
	zero := make([]byte, len(area))
	for _, r := range ranges {
		whole := r.Off == 0 && r.Len == disk.Size() // a new disk is zero
		for off := r.Off; off < r.Off+r.Len; {
			p := area[:min(int64(len(area)), r.Off+r.Len-off)]
			if _, err := f.ReadAt(p, off); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if !whole || !bytes.Equal(p, zero[:len(p)]) {
				if err := disk.Write(off, p); err != nil {
					return err
				}
			}
			off += int64(len(p))
		}
	}
	return nil
}

// provider is the VM, to be backed up.
func (l *lab) provider(ctx context.Context) (*vmware.Provider, error) {
	found, err := l.client.Find(ctx, vmware.Selection{VMs: []string{"web0"}})
	if err != nil {
		return nil, err
	}
	return vmware.New(l.client, vmware.Refs(found), nil)
}

func (l *lab) close() error {
	var errs []error
	if l.client != nil {
		errs = append(errs, l.client.Close(context.Background()))
		if left := l.server.Leftovers(); len(left) > 0 {
			errs = append(errs, fmt.Errorf("left on the fake vSphere: %q", left))
		}
	}
	if l.server != nil {
		errs = append(errs, l.server.Close())
	}
	return errors.Join(errs...)
}
