package kvm

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// owner is whom a file must belong to, so that a QEMU can use it: here nobody else than whoever made it.
type owner struct {
	uid, gid int
	label    string
}

func ownerOf(string) (owner, error) { return owner{}, nil }

func (o owner) give(string) error { return nil }

// resize changes the length of a file.
func resize(path string, size int64) error { return os.Truncate(path, size) }

// allocatedBytes is how long a file is, which is at least what it takes up.
func allocatedBytes(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// fileSystemOf: QEMU's disks are not looked for here.
func fileSystemOf(string) (uint64, error) { return 0, errors.ErrUnsupported }

// detach keeps a guard out of reach of what is sent to our console.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}
