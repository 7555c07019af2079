package qcow2

import (
	"context"
	"errors"
	"iter"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Options change how an image is opened. Nil and zero fields are good defaults.
type Options struct {
	// Allow lists folders in which, and below which, backing and data files may lie, beside the folder of the image
	// that the user named. A file anywhere else is a *ReferenceError and is not opened.
	Allow []string
	// TrustProbe follows the references of a backing file whose format its overlay does not state and which looks
	// like qcow2. By default they are refused: such a file may be a raw disk, and what it says a guest's words.
	TrustProbe bool
	// Alone refuses every reference to another file, with these words as the reason: for a file that may be a raw disk,
	// so that what it says may be a guest's words. Empty: references are followed.
	Alone string
	// AllowCorrupt opens images that are marked as corrupt. What is read from them may be wrong.
	AllowCorrupt bool
	// Snapshot is the id or name of an internal snapshot to read instead of the current state.
	Snapshot string
	// CacheBytes bounds the tables and decoded clusters that are kept, for the whole chain. Zero: 32 MiB.
	CacheBytes int
	// Live says that files may be written to while they are read: see [diskfile.OpenOptions].
	Live bool
}

// Image is a qcow2 image with what it stands on. It has the extents ability, and [diskfile.Changed] asks all its
// files.
type Image struct {
	top   *layer
	files []*diskfile.Image
	info  Info
}

var _ pipe.ExtentImage = (*Image)(nil)

// Open opens the image at path and the files that it names, directly and through them. Errors that callers can act on
// are *CorruptError, *UnsupportedError, *ReferenceError, *diskfile.FormatError for a backing file of another format,
// and those of [diskfile.Open].
func Open(ctx context.Context, path string, opts *Options) (*Image, error) {
	o := newOpener(opts)
	img, err := o.open(ctx, path)
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return img, nil
}

// New opens an image inside another one, such as a disk on a logical volume. It may name no other files. Closing it
// leaves file open.
func New(ctx context.Context, file pipe.Image, opts *Options) (*Image, error) {
	o := newOpener(opts)
	top, err := o.layer(ctx, "qcow2", file, "it is not a file with a folder", o.opts.Snapshot)
	if err != nil {
		return nil, err
	}
	return o.image(ctx, top)
}

// Info is what an image says about itself.
type Info struct {
	Version     int
	ClusterSize int64
	Compression Compression
	Subclusters bool // extended L2 entries
	Dirty       bool // it was not closed properly: its reference counts may be stale, its content is not
	Corrupt     bool
	Backing     string // as it stands in the image
	DataFile    string
	Depth       int // images in the chain, this one included
	Snapshots   []Snapshot
	Bitmaps     []Bitmap
}

// Info returns what the image says about itself.
func (img *Image) Info() Info { return img.info }

// Size implements [pipe.Image].
func (img *Image) Size() int64 { return img.top.size }

// ReadAt implements [pipe.Image].
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return img.top.ReadAt(ctx, p, off)
}

// Extents implements [pipe.ExtentImage]: by the tables and by the holes of the files, without reading data.
// Neighbours differ in kind.
func (img *Image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return img.top.Extents(ctx, off, n)
}

// Changed reports, as a *diskfile.ChangedError, that a file of the chain was written to since it was opened.
func (img *Image) Changed() error {
	for _, f := range img.files {
		if err := f.Changed(); err != nil {
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

// Files are the paths of the files of the chain, the image itself first. It is empty for an image inside another one.
func (img *Image) Files() []string {
	var paths []string
	for _, f := range img.files {
		paths = append(paths, f.Path())
	}
	return paths
}
