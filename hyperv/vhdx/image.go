package vhdx

import (
	"context"
	"errors"
	"iter"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Options change how a disk is opened. Nil and zero fields are good defaults.
type Options struct {
	// Folder is where parents may lie, and below it. Empty: the folder of the file that is opened. The file itself must
	// lie in it too where it has a parent.
	Folder string
	// Depth bounds how many files a chain may have. Zero: 128.
	Depth int
	// CacheBytes bounds the tables and bitmaps that are kept, for the whole chain. Zero: 32 MiB.
	CacheBytes int
	// Live says that files may be written to while they are read: see [diskfile.OpenOptions].
	Live bool
	// Parents is where the parents lie of a disk that [OpenDiskIn] opens. Nil: it may have none.
	Parents Files
}

// Image is a disk, VHDX or VHD, with the parents below it. It has the extents ability, and [diskfile.Changed] asks all
// its files.
type Image struct {
	top   *layer
	files []chainFile
	info  Info
	below []Info // of the parents, the nearest first
}

var _ pipe.ExtentImage = (*Image)(nil)

// Type says how a file holds its disk.
type Type uint8

// The types of a disk file.
const (
	Dynamic Type = iota
	Fixed
	Differencing
)

func (t Type) String() string { return [...]string{"dynamic", "fixed", "differencing"}[t] }

// Info is what a file says about its disk.
type Info struct {
	Format         string // vhdx or vhd
	Type           Type
	BlockSize      int64 // 0 for a fixed VHD
	SectorSize     int64 // logical
	PhysicalSector int64
	DiskID         GUID              // of the virtual disk; children have their parent's
	DataWrite      GUID              // changes when the content does; of a VHD its unique id
	Sequence       uint64            // of its header: no later state of the file has a lower one; of a VHD 0
	Locator        map[string]string // how it names its parent
	LogReplayed    bool              // it was not closed properly, and its log was applied in memory
	Size           int64             // of the disk, in bytes
	Depth          int               // files in the chain, this one included; of a file alone 1
}

// Open opens the disk at path and all files below it. Errors that callers can act on are *CorruptError,
// *UnsupportedError, *ParentError and those of [diskfile.Open].
func Open(ctx context.Context, path string, opts *Options) (*Image, error) {
	o := newOpener(opts)
	img, err := o.openLocal(ctx, path)
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return img, nil
}

// New opens a disk inside another image. It may have no parent. Closing it leaves file open.
func New(ctx context.Context, file pipe.Image, opts *Options) (*Image, error) {
	o := newOpener(opts)
	l, info, err := o.layer(ctx, "disk", file)
	if err != nil {
		return nil, err
	}
	if info.Type == Differencing {
		return nil, &ParentError{"disk", parentNames(info), ErrParentMissing}
	}
	info.Depth = 1
	return &Image{top: l, info: info}, nil
}

// Info returns what the file says about its disk.
func (img *Image) Info() Info { return img.info }

// Infos are what the files of the chain say, in the order of [Image.Files]. Only the first has its Depth.
func (img *Image) Infos() []Info { return append([]Info{img.info}, img.below...) }

// Size implements [pipe.Image].
func (img *Image) Size() int64 { return img.top.size }

// ReadAt implements [pipe.Image].
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return img.top.ReadAt(ctx, p, off)
}

// Extents implements [pipe.ExtentImage]: by the tables and by the holes of the files, without reading data.
// Neighbours differ in kind.
func (img *Image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return img.top.merged(ctx, off, n)
}

// Changed reports, as a *diskfile.ChangedError, that a file of the chain was written to since it was opened.
func (img *Image) Changed() error {
	for _, f := range img.files {
		if err := diskfile.Changed(f.Image); err != nil {
			return err
		}
	}
	return nil
}

// Flight is how many reads the slowest of the files wants under way, where they lie far away.
func (img *Image) Flight() (most pipe.Flight) {
	for _, f := range img.files {
		if far, ok := pipe.As[interface {
			pipe.Image
			pipe.Far
		}](f.Image); ok {
			one := far.Flight()
			most.Reads, most.Bytes = max(most.Reads, one.Reads), max(most.Bytes, one.Bytes)
		}
	}
	return most
}

// Files are the paths of the files of the chain, the disk itself first.
func (img *Image) Files() (paths []string) {
	for _, f := range img.files {
		paths = append(paths, f.path)
	}
	return paths
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
