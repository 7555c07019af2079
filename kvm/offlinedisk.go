package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

// DiskImage is the file or block device of one disk.
type DiskImage struct {
	Key    string `json:"key"`
	Path   string `json:"path"`   // absolute
	Format string `json:"format"` // raw or qcow2. Empty: by what is in the file, which for a raw disk is the guest's word
}

// Formats of disk images that are read and written without a running QEMU.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

var imageFormats = diskfile.Formats{qcow2.Format(nil, nil), diskfile.Raw()}

// maxDisks bounds the disks of one machine.
const maxDisks = 256

// checkImages refuses what cannot be meant. Keys become names of files.
func checkImages(images []DiskImage) error {
	keys, paths := map[string]bool{}, map[string]bool{}
	if len(images) > maxDisks {
		return fmt.Errorf("%w: %d disks are more than %d", fs.ErrInvalid, len(images), maxDisks)
	}
	for _, d := range images {
		path := filepath.Clean(d.Path)
		switch {
		case !plainKey.MatchString(d.Key):
			return fmt.Errorf("%w: disk key %q: letters, digits, dots, dashes and underscores, at most 64", fs.ErrInvalid, d.Key)
		case !filepath.IsAbs(d.Path):
			return fmt.Errorf("%w: disk %s: %q is no absolute path", fs.ErrInvalid, d.Key, d.Path)
		case d.Format != "" && d.Format != formatRaw && d.Format != formatQcow2:
			return fmt.Errorf("%w: disk %s: format %q is neither raw nor qcow2", fs.ErrInvalid, d.Key, d.Format)
		case keys[d.Key] || paths[path]:
			return fmt.Errorf("%w: disk %s or its file %s is named twice", fs.ErrInvalid, d.Key, d.Path)
		}
		keys[d.Key], paths[path] = true, true
	}
	return nil
}

// offDisk is a disk of a VM that is off.
type offDisk struct {
	DiskImage
	Base string `json:"base,omitempty"` // bitmap that the base point names
	Next string `json:"next,omitempty"` // bitmap that begins with the session
	// Old are bitmaps that other points name on which nothing is built after a commit.
	Old []string `json:"old,omitempty"`

	size   int64
	stated bool // the format was said, and not found in the file
	old    bool // a version of qcow2 that keeps no bitmaps
	next   bool // a bitmap that begins with the session is in the image
}

// look finds out a disk's format and size, without asking whether anybody writes to it.
func (d *offDisk) look(ctx context.Context) error {
	d.stated = d.Format != ""
	if !d.stated {
		f, err := imageFormats.Detect(ctx, d.Path)
		if err != nil {
			return err
		}
		d.Format = f.Name()
	}
	img, err := d.openAs(ctx, true)
	if err != nil {
		return err
	}
	d.size = img.Size()
	if q, ok := img.(*qcow2.Image); ok {
		d.old = q.Info().Version < 3
		if !d.stated && len(q.Files()) > 1 { // QEMU's programs would write through what may be a guest's word
			return errors.Join(fmt.Errorf("%s: %w: it looks like a qcow2 image that stands on other files, and nobody said that it is one: write qcow2:%s, or raw: where it is a raw disk", d.Path, fs.ErrInvalid, d.Path), img.Close())
		}
	}
	return img.Close()
}

func (d *offDisk) open(ctx context.Context) (pipe.Image, error) { return d.openAs(ctx, false) }

// openAs opens a disk's content. An image that was said to be one may stand on files in any folder, as for QEMU: its
// header is QEMU's word. One that only looks like it may be a raw disk, and its header a guest's.
func (d *offDisk) openAs(ctx context.Context, live bool) (pipe.Image, error) {
	if d.Format == formatQcow2 && d.stated {
		return d.qcow2(ctx, live)
	}
	return imageFormats.Open(ctx, d.Path, d.Format, &diskfile.OpenOptions{Live: live})
}

func (d *offDisk) qcow2(ctx context.Context, live bool) (*qcow2.Image, error) {
	return qcow2.Open(ctx, d.Path, &qcow2.Options{Live: live, Allow: []string{filepath.VolumeName(d.Path) + string(filepath.Separator)}})
}

// bitmaps are those that are in a qcow2 image. Nobody may have it open for writing. Nothing of its content is read.
func (d *offDisk) bitmaps(ctx context.Context) ([]qcow2.Bitmap, error) {
	if d.Format != formatQcow2 {
		return nil, nil
	}
	img, err := d.qcow2(ctx, true)
	if err != nil {
		return nil, err
	}
	return img.Info().Bitmaps, img.Close()
}

func hasBitmap(list []qcow2.Bitmap, name string) (qcow2.Bitmap, bool) {
	for _, b := range list {
		if b.Name == name && name != "" {
			return b, true
		}
	}
	return qcow2.Bitmap{}, false
}

// hold keeps writers away from a disk's image, and from all that it stands on.
func (d *offDisk) hold(ctx context.Context) (release func() error, err error) {
	var held []func() error
	release = func() error {
		var errs []error
		for _, r := range held {
			errs = append(errs, r())
		}
		return errors.Join(errs...)
	}
	keep := func(path string) error {
		r, err := diskfile.Hold(path)
		if err == nil {
			held = append(held, r)
		}
		return d.inUse(err)
	}
	if err := keep(d.Path); err != nil {
		return nil, err
	}
	below, err := d.below(ctx)
	for _, path := range below {
		err = errors.Join(err, keep(path))
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// below are the files that a qcow2 image stands on.
func (d *offDisk) below(ctx context.Context) ([]string, error) {
	if d.Format != formatQcow2 {
		return nil, nil
	}
	img, err := d.qcow2(ctx, true)
	if err != nil {
		return nil, err
	}
	return img.Files()[1:], img.Close()
}

// inUse makes of a lock, ours or one that a program of QEMU's met, what all providers say then.
func (d *offDisk) inUse(err error) error {
	what := "disk " + d.Key + " (" + d.Path + ")"
	if locked, ok := errors.AsType[*diskfile.LockedError](err); ok {
		return &hikae.BusyError{What: what, Owner: locked.Owner + ": is this the path of the VM's monitor? Nobody listens there"}
	}
	if failed, ok := errors.AsType[*ProgramError](err); ok && strings.Contains(failed.Output, `Failed to get "write" lock`) {
		return &hikae.BusyError{What: what, Owner: "another process: " + failed.Output}
	}
	return err
}
