package vmdk

import (
	"context"
	"errors"
	"iter"
	"path"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Options change how a disk is opened. Nil and zero fields are good defaults.
type Options struct {
	// Allow lists folders in which, and below which, extents and parents may lie, beside the folder of the disk that the
	// user named. A file anywhere else is a *ReferenceError and is not opened; so is a device everywhere.
	Allow []string
	// CacheBytes bounds the tables and decoded grains that are kept, for the whole chain. Zero: 32 MiB.
	CacheBytes int
	// Live says that files may be written to while they are read: see [diskfile.OpenOptions].
	Live bool
}

// Image is a disk with what it stands on. It has the extents ability, and [diskfile.Changed] asks all its files.
type Image struct {
	top   *layer
	files []pipe.Image
	info  Info
}

var _ pipe.ExtentImage = (*Image)(nil)

// Info is what a disk says about itself.
type Info struct {
	Descriptor          // of the disk itself
	Depth      int      // disks in the chain, this one included
	Files      []string // of the whole chain, as seen from its folder, the disk's own first
}

// Open opens the disk at path, with its extents and what it stands on. Errors that callers can act on are
// *CorruptError, *UnsupportedError, *ReferenceError, *CIDError, and those of [diskfile.Open].
func Open(ctx context.Context, path string, opts *Options) (*Image, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	file, err := diskfile.Open(path, &diskfile.OpenOptions{Live: o.Live})
	if err != nil {
		return nil, err
	}
	folder, err := newDirFolder(filepath.Dir(path), &o)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return open(ctx, newOpener(folder, o), filepath.Base(path), file)
}

// OpenIn opens the disk of that name in a folder, which need not be one of this machine. The options' Allow and Live
// are not looked at. Closing the image closes what the folder opened.
func OpenIn(ctx context.Context, folder Folder, name string, opts *Options) (*Image, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	name = path.Clean(name)
	file, err := folder.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return open(ctx, newOpener(folder, o), name, file)
}

func open(ctx context.Context, o *opener, name string, file pipe.Image) (*Image, error) {
	o.files[name] = file
	o.order, o.names = append(o.order, file), append(o.names, name)
	top, _, err := o.disk(ctx, name, file)
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	o.info.Depth, o.info.Files = len(o.chain), o.names
	return &Image{top: top, files: o.order, info: o.info}, nil
}

// Info returns what the disk says about itself.
func (img *Image) Info() Info { return img.info }

// Size implements [pipe.Image].
func (img *Image) Size() int64 { return img.top.size }

// ReadAt implements [pipe.Image].
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return img.top.readAt(ctx, p, off)
}

// Extents implements [pipe.ExtentImage]: by the tables and by the holes of the files, without reading data.
// Neighbours differ in kind.
func (img *Image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return img.top.extents(ctx, off, n)
}

// Changed reports, as a *diskfile.ChangedError, that a file of the chain was written to since it was opened.
func (img *Image) Changed() error {
	for _, f := range img.files {
		if err := diskfile.Changed(f); err != nil {
			return err
		}
	}
	return nil
}

// Close closes all files of the chain. It returns a *diskfile.ChangedError where one was written to, unless they were
// opened as Live.
func (img *Image) Close() error {
	var errs []error
	for _, f := range img.files {
		errs = append(errs, f.Close())
	}
	img.files = nil
	return errors.Join(errs...)
}
