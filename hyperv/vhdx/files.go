package vhdx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// Files is where the files of a chain lie, where that is not a folder of this machine: a Hyper-V host, a share, a shadow copy.
// Its methods may be called at once.
type Files interface {
	// Open opens a file for reading by a Windows path, absolute and clean: C:\VMs\web1.vhdx or \\server\share\web1.vhdx. None is
	// fs.ErrNotExist. Which paths may be reached is for Files to say.
	Open(ctx context.Context, name string) (pipe.Image, error)
}

// File is one file that is written to, wherever it lies.
type File interface {
	pipe.Image
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Truncate sets the length; what is added reads as zeros.
	Truncate(ctx context.Context, size int64) error
	// Sync returns when all that was written before is durable.
	Sync(ctx context.Context) error
}

// OpenIn opens the disk by a Windows path, VHDX or VHD, and all files below it, with the errors of [Open] and of files; a
// name that is no path is fs.ErrInvalid. Parents are looked for where the disk says that they are, relative to it and
// absolute, and beside it: what decides is their identity, and which paths may be reached is for files to say.
func OpenIn(ctx context.Context, files Files, name string, opts *Options) (*Image, error) {
	o := newOpener(opts)
	in := filePlaces{files}
	f, err := in.openAny(ctx, name)
	if err != nil {
		return nil, err
	}
	img, err := o.open(ctx, f, func() (places, string, error) { return in, f.path, nil })
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return img, nil
}

// Inspect is what one file says about its disk, with the errors of [Open]; its parents are not looked for, and nothing is
// closed. name stands in errors.
func Inspect(ctx context.Context, file pipe.Image, name string) (Info, error) {
	_, info, err := newOpener(nil).layer(ctx, name, file)
	info.Depth = 1
	return info, err
}

// InspectIn is [Inspect] of a file by its Windows path.
func InspectIn(ctx context.Context, files Files, name string) (Info, error) {
	f, err := filePlaces{files}.openAny(ctx, name)
	if err != nil {
		return Info{}, err
	}
	info, err := Inspect(ctx, f.Image, f.path)
	return info, errors.Join(err, f.Close())
}

// OpenDiskIn opens a VHDX for writing in a file that exists, as [OpenDisk] does; parents are looked for in
// [Options.Parents]. name is the file's Windows path, or any word where the disk has no parent. The file is the disk's from
// now on: it is closed with it, and where an error is returned.
func OpenDiskIn(ctx context.Context, file File, name string, opts *Options) (*Disk, error) {
	d := &Disk{parent: newOpener(opts), file: file}
	where := func() (places, string, error) {
		at, err := WindowsPath(name)
		switch {
		case d.parent.opts.Parents == nil:
			return nil, "", ErrParentMissing
		case err != nil:
			return nil, "", err
		}
		return filePlaces{d.parent.opts.Parents}, at, nil
	}
	d.parent.files = append(d.parent.files, chainFile{unclosed{file}, name})
	if err := d.open(ctx, name, remoteStorage{file}, file.Size(), where); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

// unclosed is a file that somebody else closes.
type unclosed struct{ pipe.Image }

func (unclosed) Close() error { return nil }

// filePlaces are the places of a Files. A place is a clean Windows path.
type filePlaces struct{ files Files }

func (p filePlaces) openAny(ctx context.Context, name string) (chainFile, error) {
	at, err := WindowsPath(name)
	if err != nil {
		return chainFile{}, err
	}
	return p.open(ctx, at)
}

func (p filePlaces) open(ctx context.Context, place string) (chainFile, error) {
	img, err := p.files.Open(ctx, place)
	if err != nil {
		return chainFile{}, fmt.Errorf("open %s: %w", place, err)
	}
	return chainFile{img, place}, nil
}

// candidates are the child's relative path from where it lies, the absolute one, the one of a volume on the child's own
// drive, and the bare name beside the child.
func (filePlaces) candidates(at string, info Info) (out []string) {
	root, parts, err := parseWindows(at)
	if err != nil || len(parts) == 0 {
		return nil
	}
	dir := parts[:len(parts)-1]
	add := func(root string, parts []string, err error) {
		place := root + strings.Join(parts, `\`)
		if err == nil && len(parts) > 0 && len(place) <= maxWindowsPath && !slices.Contains(out, place) {
			out = append(out, place)
		}
	}
	if relative := info.Locator[keyRelative]; relative != "" {
		below, err := cleanParts(dir, words(relative))
		add(root, below, err)
	}
	other, below, err := parseWindows(info.Locator[keyAbsolute])
	add(other, below, err)
	if volume := info.Locator[keyVolume]; volume != "" {
		parts := split(volume)
		if len(parts) > 0 && strings.HasPrefix(parts[0], "Volume{") {
			parts = parts[1:]
		}
		below, err := cleanParts(nil, parts)
		add(root, below, err)
	}
	for _, name := range parentNames(info) {
		if last := split(name); len(last) > 0 && last[len(last)-1] != ".." {
			beside, err := cleanParts(dir, last[len(last)-1:])
			add(root, beside, err)
		}
	}
	return out
}

// words takes a relative path apart.
func words(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '\\' || r == '/' })
}

// same goes by the path, as Windows compares them. One file by two paths is found by the chain's depth.
func (filePlaces) same(a, b chainFile) bool { return strings.EqualFold(a.path, b.path) }

func (filePlaces) where() string { return "any place that the disk names" }

// remoteStorage is a [File] that holds a disk already.
type remoteStorage struct{ File }

func (s remoteStorage) Zero(ctx context.Context, off, n int64) error {
	return writeZeros(ctx, s.File, off, n)
}
