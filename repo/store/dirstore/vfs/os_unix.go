//go:build unix

package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

func links(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}

// openDir opens a folder and nothing else; a pipe in its place would block.
func (d *osFS) openDir(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
}

func (d *osFS) syncDir(name string) error {
	f, err := d.openDir(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Hold locks the folder itself: the kernel lets go when the process is dead.
func (d *osFS) Hold(name string) (io.Closer, error) {
	f, err := d.openDir(name)
	if err != nil {
		return nil, err
	}
	err = retryEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = ErrHeld
	case unable(err), errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOLCK):
		err = errors.Join(errors.ErrUnsupported, err)
	}
	return nil, &fs.PathError{Op: "hold", Path: name, Err: err}
}

// between runs a system call that takes two folders and two plain names in them.
func (d *osFS) between(op, oldname, newname string, call func(oldDir int, oldBase string, newDir int, newBase string) error) error {
	from, err := d.openDir(path.Dir(oldname))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := d.openDir(path.Dir(newname))
	if err != nil {
		return err
	}
	defer to.Close()
	err = retryEINTR(func() error {
		return call(int(from.Fd()), path.Base(oldname), int(to.Fd()), path.Base(newname))
	})
	if err != nil {
		return &os.LinkError{Op: op, Old: oldname, New: newname, Err: err}
	}
	return nil
}

func (d *osFS) statfs() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	f, err := d.openDir(".")
	if err != nil {
		return st, err
	}
	defer f.Close()
	err = retryEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &st) })
	if err != nil {
		return st, &fs.PathError{Op: "statfs", Path: d.root.Name(), Err: err}
	}
	return st, nil
}

func retryEINTR(call func() error) error {
	for range 100 {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
	return unix.EINTR
}
