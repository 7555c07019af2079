//go:build unix && !aix && !solaris

package kvm

import (
	"errors"
	"os"
	"syscall"

	"github.com/hikae/hikae"
)

// lockStart takes the lock of a folder that a VM is started in. It dies with the process.
func lockStart(path, folder string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &hikae.BusyError{What: "the folder " + folder, Owner: "another process that serves a VM's disks there"}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// syncDir makes durable which names are in a folder.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
