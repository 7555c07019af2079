package diskfile

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/hikae/hikae/pipe"
)

// TargetOptions change how an existing file is opened for writing. Nil and zero fields are good defaults.
type TargetOptions struct {
	// Force opens the file although QEMU has it open, and a device although it is mounted.
	Force bool
}

// InPlace is an existing raw file or block device that is written over. It has the extents ability, and its base is
// what it holds: Unchanged leaves it alone, every other mark really makes zeros.
//
// There is no way back: what was written stays, whether or not Commit follows.
type InPlace struct {
	f      *os.File
	path   string
	size   int64
	closed bool
}

var _ pipe.ExtentTarget = (*InPlace)(nil)

// OpenTarget opens an existing raw file or block device for writing over it. A symbolic link is not followed:
// ErrNotDisk. A file that QEMU has open and a device that is mounted are a *LockedError unless forced; while the target is open, QEMU
// refuses to open the file in turn, on systems where that can be said.
func OpenTarget(path string, opts *TargetOptions) (*InPlace, error) {
	fi, err := os.Lstat(path)
	if err := checkKind(fi, err); err != nil {
		return nil, ioError("open", path, -1, err)
	}
	flags := os.O_RDWR | openFlags | noFollow
	force := opts != nil && opts.Force
	if fi.Mode().Type() == fs.ModeDevice && !force {
		flags |= os.O_EXCL // Linux refuses a device that is mounted or part of another one
	}
	f, err := os.OpenFile(path, flags, 0)
	switch {
	case err != nil && flags&os.O_EXCL != 0 && isBusy(err):
		return nil, &LockedError{Path: path, Owner: "the system: it is mounted, or part of another device"}
	case err != nil:
		return nil, ioError("open", path, -1, err)
	}
	t, err := newInPlace(f, path, force)
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func newInPlace(f *os.File, path string, force bool) (*InPlace, error) {
	fi, err := f.Stat()
	if err := checkKind(fi, err); err != nil {
		return nil, ioError("open", path, -1, err)
	}
	size, err := sizeOf(f, fi)
	if err != nil {
		return nil, ioError("open", path, -1, err)
	}
	if !force {
		if err := lockOut(f, path); err != nil {
			return nil, err
		}
	}
	return &InPlace{f: f, path: path, size: size}, nil
}

// Size implements [pipe.Target].
func (t *InPlace) Size() int64 { return t.size }

// WriteAt implements [pipe.Target]. It writes all of p, zeros too.
func (t *InPlace) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := checkWrite(ctx, t.path, int64(len(p)), off, t.size); err != nil {
		return 0, err
	}
	n, err := t.f.WriteAt(p, off)
	return n, ioError("write", t.path, off+int64(n), err)
}

// Mark implements [pipe.ExtentTarget].
func (t *InPlace) Mark(ctx context.Context, e pipe.Extent) error {
	if err := checkMark(ctx, t.path, e, t.size); err != nil {
		return err
	}
	if e.Kind == pipe.Unchanged || e.Len == 0 {
		return nil
	}
	return ioError("zero", t.path, e.Off, zeroRange(t.f, e.Off, e.Len))
}

// Commit implements [pipe.Target]: on nil all is durable.
func (t *InPlace) Commit(ctx context.Context) error {
	if t.closed {
		return ioError("sync", t.path, -1, fs.ErrClosed)
	}
	err := ctx.Err()
	if err == nil {
		err = ioError("sync", t.path, -1, t.f.Sync())
	}
	return errors.Join(err, t.Close())
}

// Close implements [pipe.Target]. It may be called again.
func (t *InPlace) Close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	unlock(t.f)
	return ioError("close", t.path, -1, t.f.Close())
}
