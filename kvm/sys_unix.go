//go:build unix

package kvm

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// owner is whom a file must belong to, so that a QEMU can use it.
type owner struct {
	uid, gid int    // zero: nobody else
	label    string // of SELinux; empty: none
}

// ownerOf is who owns a file.
func ownerOf(path string) (o owner, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return o, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.uid, o.gid = int(st.Uid), int(st.Gid)
	}
	return o, nil
}

// give makes a file belong to the owner, as far as we may: only root has to, and can.
func (o owner) give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if o.uid != 0 {
		if err := os.Lchown(path, o.uid, o.gid); err != nil { // the folder is theirs by now: it may be a link to somewhere else
			return err
		}
	}
	return o.giveLabel(path)
}

// allocatedBytes is what a file takes up of its file system.
func allocatedBytes(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return int64(st.Blocks) * 512, nil
}

// fileSystemOf is the number of the file system that a file is on.
func fileSystemOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint64(st.Dev), nil
}

// detach keeps a guard out of reach of what is sent to our terminal or our process group.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// resize changes the length of a file, and not of one that a link in its place leads to.
func resize(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
