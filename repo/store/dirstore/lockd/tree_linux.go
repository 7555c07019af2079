package lockd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/lockd/lockline"
)

const flagImmutable = 0x10 // FS_IMMUTABLE_FL

// beneath is how names are looked up: nothing leads out of the folder, through a link, or to another file system.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func (k *Keeper) openat(name string, flags uint64) (int, error) {
	fd, err := unix.Openat2(k.fd(), name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath})
	switch err {
	case unix.ELOOP, unix.EXDEV, unix.ENOTDIR:
		err = fmt.Errorf("%s: %w: %w", name, store.ErrForeign, err)
	case unix.ENOENT:
		err = &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, err
}

// open gives an object, in folders that its user can move no more: from the top down, so that what is below one that was
// taken over is looked up in it.
func (k *Keeper) open(name string) (*os.File, error) {
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		if err := k.folder(name[:i]); err != nil {
			return nil, err
		}
	}
	at, err := k.openat(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file: %w", name, store.ErrForeign)
	}
	// Only now, for to open a device or a pipe may do something.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// folder takes one folder over and looks whether it is still where it was.
func (k *Keeper) folder(name string) error {
	fd, err := k.openat(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := k.takeOver(fd); err != nil {
		return fmt.Errorf("folder %s: %w", name, err)
	}
	return k.still(name, fd)
}

// takeOver makes a folder the helper's. Its user's group may go on writing there.
func (k *Keeper) takeOver(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := st.Mode&0o755 | 0o770 | unix.S_ISVTX
	if int(st.Uid) == os.Getuid() && int(st.Gid) == k.gid && st.Mode&0o7777 == mode {
		return nil
	}
	if err := unix.Fchown(fd, os.Getuid(), k.gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}

// still says whether a name is that of an open file.
func (k *Keeper) still(name string, fd int) error {
	at, err := k.openat(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(at, &a), unix.Fstat(fd, &b)); err != nil {
		return err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return fmt.Errorf("%s was replaced meanwhile: %w", name, store.ErrForeign)
	}
	return nil
}

// immutable sets the flag, and takes it back where it would prove nothing.
func (k *Keeper) immutable(name string, f *os.File) error {
	fd := int(f.Fd())
	on, err := getFlag(fd)
	if err != nil {
		return err
	}
	if !on {
		if err := setFlag(fd, true); err != nil {
			return err
		}
		k.step("flagged")
	}
	err = unwritten(fd)
	if err == nil {
		err = k.still(name, fd)
	}
	if err == nil {
		on, readErr := getFlag(fd)
		if readErr != nil || !on {
			return errors.Join(fmt.Errorf("%s: the flag does not hold", name), readErr)
		}
		err = f.Sync() // the flag is the file's metadata
	}
	if err != nil && !on {
		err = errors.Join(err, setFlag(fd, false))
	}
	return err
}

// unwritten says whether nobody has a file open for writing: the kernel gives a read lease on no other.
func unwritten(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	if err == unix.EAGAIN {
		return lockline.ErrBusy
	}
	if err != nil {
		return fmt.Errorf("find out whether it is open for writing: %w", err)
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	return err
}

func getFlag(fd int) (bool, error) {
	n, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	return n&flagImmutable != 0, err
}

func setFlag(fd int, on bool) error {
	n, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	n &^= flagImmutable
	if on {
		n |= flagImmutable
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(n))
}

// adopt writes into the book what is immutable and not in it.
func (k *Keeper) adopt(ctx context.Context, until int64) error {
	root := os.DirFS("/proc/self/fd/" + strconv.Itoa(k.fd()))
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && (strings.Count(name, "/") >= store.MaxParts || path.Base(name) == ".tmp"):
			return fs.SkipDir
		case !d.Type().IsRegular() || !store.ValidName(name) || k.book.until(name) > 0:
			return nil
		}
		var st unix.Statx_t
		err = unix.Statx(k.fd(), name, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
		if err == unix.ENOENT || err == nil && st.Attributes&unix.STATX_ATTR_IMMUTABLE == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		k.opts.Log(fmt.Sprintf("%s is immutable and was not in the book: it is kept for %v", name, k.opts.Adopt))
		return k.book.lock(name, until)
	})
}
