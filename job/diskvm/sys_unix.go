//go:build !windows

package diskvm

import (
	"errors"
	"syscall"
)

// syncFolder makes the names in the folder durable.
func (d *draft) syncFolder() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
