package kvm

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// giveLabel sets the label by which SELinux lets one machine's QEMU at its files and at no other's. A file system that
// has no labels needs none.
func (o owner) giveLabel(path string) error {
	if o.label == "" {
		return nil
	}
	err := unix.Lsetxattr(path, "security.selinux", []byte(o.label+"\x00"), 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return &fs.PathError{Op: "set the SELinux label of", Path: path, Err: err}
	}
	return nil
}
