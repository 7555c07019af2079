package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// lab is a fake vSphere whose guests have written something, and a repository in memory.
type lab struct {
	server *vmwaretest.Server
	client *vmware.Client
	repo   *repo.Repository
	chance *rand.ChaCha8
}

const diskBytes = 8 << 20

func newLab(ctx context.Context, dir string) (*lab, error) {
	return newLabOver(ctx, dir, memstore.New(nil))
}

func newLabOver(ctx context.Context, dir string, st store.Store) (l *lab, err error) {
	l = &lab{chance: rand.NewChaCha8([32]byte{1})}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.server, err = vmwaretest.Start(&vmwaretest.Options{VMs: 8, Hosts: 2, DiskBytes: diskBytes}); err != nil {
		return l, err
	}
	for _, vm := range l.server.VMs() {
		if err = l.write(vm.Name(), 12); err != nil {
			return l, err
		}
	}
	who := vmware.Login{User: l.server.User(), Password: l.server.Password()}
	if l.client, err = vmware.Connect(ctx, l.server.URL(), who, &vmware.ConnectOptions{Thumbprint: l.server.Thumbprint()}); err != nil {
		return l, err
	}
	l.repo, err = repo.Init(ctx, st, nil, &repo.InitOptions{NoEncryption: true, BlockSize: 64 << 10}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	return l, err
}

// write has a guest write n areas of 64 KiB.
func (l *lab) write(name string, n int) error {
	disk := l.server.VM(name).Disk(0)
	area := make([]byte, 64<<10)
	for range n {
		if _, err := l.chance.Read(area); err != nil {
			return err
		}
		if err := disk.Write(int64(l.chance.Uint64()%(diskBytes>>16))<<16, area); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// refuseOnce has the host fail a VM's next backup: the snapshot that change tracking begins with, and the backup's own.
func (l *lab) refuseOnce(name string) {
	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", Object: l.server.VM(name).Ref().Value, InTask: true, Times: 2,
		Fault: &types.GenericVmConfigFault{Reason: "the host is busy with another task"}})
}

func (l *lab) close() error {
	var errs []error
	if l.repo != nil {
		errs = append(errs, l.repo.Close())
	}
	if l.client != nil {
		errs = append(errs, l.client.Close(context.Background()))
	}
	if l.server != nil {
		if left := l.server.Leftovers(); len(left) > 0 && len(errs) == 2 {
			errs = append(errs, fmt.Errorf("left on the fake: %q", left))
		}
		errs = append(errs, l.server.Close())
	}
	return errors.Join(errs...)
}
