package diskfile

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/pipe"
)

// OpenOptions change how a file is opened for reading. Nil and zero fields are good defaults.
type OpenOptions struct {
	// Live says that the file may be written to while it is read and that the caller knows it: Close then does not
	// look for changes. Changed still does.
	Live bool
}

// Image is a raw file or block device. It has the extents ability.
type Image struct {
	f     *os.File
	path  string
	size  int64
	mtime time.Time
	fixed bool // a regular file, whose size and modification time tell whether it changed
	live  bool
}

var _ pipe.ExtentImage = (*Image)(nil)

// Open opens a raw file or block device for reading. A symbolic link is followed. Anything else than a file or block
// device is refused with ErrNotDisk, without blocking on it.
func Open(path string, opts *OpenOptions) (*Image, error) {
	if err := checkKind(os.Stat(path)); err != nil {
		return nil, ioError("open", path, -1, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, ioError("open", path, -1, err)
	}
	return FromFile(f, opts)
}

// OpenIn is Open for a name below a folder. It does not leave the folder, whatever symbolic links it meets.
func OpenIn(root *os.Root, name string, opts *OpenOptions) (*Image, error) {
	if err := checkKind(root.Stat(name)); err != nil {
		return nil, ioError("open", filepath.Join(root.Name(), name), -1, err)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, ioError("open", filepath.Join(root.Name(), name), -1, err)
	}
	return FromFile(f, opts)
}

// FromFile makes an image of an open file, which the image then owns; it is closed on error too.
func FromFile(f *os.File, opts *OpenOptions) (*Image, error) {
	img, err := newImage(f, opts)
	if err != nil {
		f.Close()
		return nil, ioError("open", f.Name(), -1, err)
	}
	return img, nil
}

func newImage(f *os.File, opts *OpenOptions) (*Image, error) {
	if opts == nil {
		opts = &OpenOptions{}
	}
	fi, err := f.Stat()
	if err := checkKind(fi, err); err != nil {
		return nil, err
	}
	size, err := sizeOf(f, fi)
	if err != nil {
		return nil, err
	}
	return &Image{
		f: f, path: f.Name(), size: size, mtime: fi.ModTime(), fixed: fi.Mode().IsRegular(), live: opts.Live,
	}, nil
}

// checkKind lets files and block devices pass.
func checkKind(fi fs.FileInfo, err error) error {
	if err != nil {
		return err
	}
	switch t := fi.Mode().Type(); t {
	case 0, fs.ModeDevice:
		return nil
	default:
		return fmt.Errorf("%w: it is a %s", ErrNotDisk, kindWord(t))
	}
}

func kindWord(t fs.FileMode) string {
	switch {
	case t&fs.ModeDir != 0:
		return "folder"
	case t&fs.ModeSymlink != 0:
		return "symbolic link"
	case t&fs.ModeNamedPipe != 0:
		return "FIFO"
	case t&fs.ModeSocket != 0:
		return "socket"
	case t&fs.ModeCharDevice != 0:
		return "character device"
	}
	return "special file"
}

// sizeOf is the length of a file or block device. A device's Stat says zero; seeking to its end says the truth.
func sizeOf(f *os.File, fi fs.FileInfo) (int64, error) {
	if fi.Mode().IsRegular() {
		return fi.Size(), nil
	}
	return f.Seek(0, io.SeekEnd)
}

// Path is the name that the file was opened by.
func (img *Image) Path() string { return img.path }

// Stat describes the open file, whatever its name leads to by now.
func (img *Image) Stat() (fs.FileInfo, error) { return img.f.Stat() }

// Size implements [pipe.Image].
func (img *Image) Size() int64 { return img.size }

// ReadAt implements [pipe.Image]. A file that has become shorter is a *ChangedError.
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, ioError("read", img.path, off, fs.ErrInvalid)
	}
	if off >= img.size {
		return 0, endOf(p)
	}
	want := p[:min(int64(len(p)), img.size-off)]
	n, err := img.f.ReadAt(want, off)
	switch {
	case n == len(want) && n < len(p):
		return n, io.EOF
	case n == len(want):
		return n, nil
	case err == io.EOF:
		return n, &ChangedError{Path: img.path, Why: fmt.Sprintf("it ends at %d, before its size %d", off+int64(n), img.size)}
	}
	return n, ioError("read", img.path, off+int64(n), err)
}

func endOf(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return io.EOF
}

// Extents implements [pipe.ExtentImage]: holes are Zero, the rest is Data. Where the file system knows no holes, all is
// Data.
func (img *Image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > img.size || n > img.size-off {
			yield(pipe.Extent{}, ioError("extents", img.path, off, fs.ErrInvalid))
			return
		}
		for end := off + n; off < end; {
			if err := ctx.Err(); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			e, err := img.extent(off, end)
			if err != nil {
				yield(pipe.Extent{}, ioError("extents", img.path, off, err))
				return
			}
			if !yield(e, nil) {
				return
			}
			off = e.End()
		}
	}
}

// extent is the one extent at off, clipped to end.
func (img *Image) extent(off, end int64) (pipe.Extent, error) {
	data, err := seekData(img.f, off)
	if err != nil {
		return pipe.Extent{}, err
	}
	if data > off {
		return pipe.Extent{Off: off, Len: min(data, end) - off, Kind: pipe.Zero}, nil
	}
	hole, err := seekHole(img.f, off)
	if err != nil {
		return pipe.Extent{}, err
	}
	if hole <= off { // it changed between the two calls: Data is always right
		hole = end
	}
	return pipe.Extent{Off: off, Len: min(hole, end) - off, Kind: pipe.Data}, nil
}

// Changed reports, as a *ChangedError, that the file was written to since it was opened, by its size and modification
// time: a write in the same tick of the file system's clock as the one before Open is not seen. Of a block device
// nothing can be told: the answer is nil.
func (img *Image) Changed() error {
	if !img.fixed {
		return nil
	}
	fi, err := img.f.Stat()
	switch {
	case err != nil:
		return ioError("stat", img.path, -1, err)
	case fi.Size() != img.size:
		return &ChangedError{Path: img.path, Why: fmt.Sprintf("its size went from %d to %d", img.size, fi.Size())}
	case !fi.ModTime().Equal(img.mtime):
		return &ChangedError{Path: img.path, Why: "its modification time is another"}
	}
	return nil
}

// Close releases the file. It returns a *ChangedError where the file was written to since it was opened, unless it was
// opened as Live.
func (img *Image) Close() error {
	var changed error
	if !img.live {
		changed = img.Changed()
	}
	if err := img.f.Close(); err != nil {
		return ioError("close", img.path, -1, err)
	}
	return changed
}

// Watcher is an optional ability of an image that stands on files: it can tell whether they were written to.
type Watcher interface{ Changed() error }

// Changed asks img, or an image that it wraps, whether the files that it stands on were written to since they were
// opened: a *ChangedError then. An image without the ability answers nil.
func Changed(img pipe.Image) error {
	if w, ok := pipe.As[interface {
		pipe.Image
		Watcher
	}](img); ok {
		return w.Changed()
	}
	return nil
}
