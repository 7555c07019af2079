package vmdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Folder is where the files of a disk lie: a folder here, on a datastore, in an archive. Its methods may be called at
// once.
type Folder interface {
	// Open opens a file for reading. The name is relative to the folder, with slashes, and clean; what descriptors say
	// is resolved before, and may begin with ../ or be absolute: a folder refuses what it does not want to reach.
	Open(ctx context.Context, name string) (pipe.Image, error)
}

var (
	errOutside = errors.New("it lies outside of the allowed folders")
	errDevice  = errors.New("it is a device")
)

// dirFolder is a folder of this machine.
type dirFolder struct {
	home  string   // without symbolic links
	allow []string // other folders, in which and below which files may lie
	live  bool
}

func newDirFolder(dir string, opts *Options) (*dirFolder, error) {
	f := &dirFolder{live: opts.Live}
	var err error
	if f.home, err = realPath(dir); err != nil {
		return nil, err
	}
	for _, dir := range opts.Allow {
		real, err := realPath(dir)
		if err != nil {
			return nil, fmt.Errorf("allowed folder: %w", err)
		}
		f.allow = append(f.allow, real)
	}
	return f, nil
}

func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// Open implements [Folder]. Whatever is swapped on the way to the file meanwhile, it does not leave the folder.
func (f *dirFolder) Open(ctx context.Context, name string) (pipe.Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, rel, err := f.locate(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := onlyFile(root.Stat(rel)); err != nil {
		return nil, err
	}
	img, err := diskfile.OpenIn(root, rel, &diskfile.OpenOptions{Live: f.live})
	if err != nil {
		return nil, err
	}
	if err := onlyFile(img.Stat()); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

// onlyFile refuses devices: a descriptor from elsewhere must not lead into this machine's disks.
func onlyFile(fi fs.FileInfo, err error) error {
	if err == nil && fi.Mode().Type() == fs.ModeDevice {
		err = errDevice
	}
	return err
}

// locate finds the allowed folder that a name leads into. A name that is local stays in the home folder, by what opens
// it; any other is resolved first.
func (f *dirFolder) locate(name string) (dir, rel string, err error) {
	if filepath.IsLocal(name) {
		return f.home, name, nil
	}
	if len(f.allow) == 0 {
		return "", "", errOutside
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(f.home, name)
	}
	real, err := realPath(name)
	if err != nil {
		return "", "", err
	}
	for _, dir := range f.allow {
		if rel, err := filepath.Rel(dir, real); err == nil && filepath.IsLocal(rel) {
			return dir, rel, nil
		}
	}
	return "", "", errOutside
}

// beside is the name of what a file names, as seen from the folder.
func beside(from, ref string) string {
	ref = filepath.ToSlash(ref)
	if path.IsAbs(ref) || filepath.IsAbs(ref) {
		return path.Clean(ref)
	}
	return path.Join(path.Dir(from), ref)
}
