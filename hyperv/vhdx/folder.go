package vhdx

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/hikae/hikae/pipe/diskfile"
)

// folder is a folder of this machine that the parents of a chain lie in, and nowhere else. A place is a path in it,
// slash-separated.
type folder struct {
	root *os.Root
	live bool
}

// enter opens the folder of a chain and says where in it the disk lies.
func (o *opener) enter(name string) (in *folder, at string, err error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, "", err
	}
	dir := o.opts.Folder
	if dir == "" {
		dir = filepath.Dir(real)
	}
	if dir, err = filepath.EvalSymlinks(dir); err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, "", err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, "", err
	}
	rel, err := filepath.Rel(dir, real)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, "", fmt.Errorf("%w: the disk lies outside of the folder for parents, %s", ErrParentMissing, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	return &folder{root, o.opts.Live}, filepath.ToSlash(rel), nil
}

// openLocal opens the disk at a path of this machine and its chain.
func (o *opener) openLocal(ctx context.Context, name string) (*Image, error) {
	f, err := diskfile.Open(name, &diskfile.OpenOptions{Live: o.opts.Live})
	if err != nil {
		return nil, err
	}
	where, done := o.around(name)
	defer done()
	return o.open(ctx, chainFile{f, name}, where)
}

// around gives the folder of a chain when it is needed, and closes it when the chain is open.
func (o *opener) around(name string) (where func() (places, string, error), done func()) {
	var in *folder
	where = func() (places, string, error) {
		var at string
		var err error
		in, at, err = o.enter(name)
		return in, at, err
	}
	return where, func() {
		if in != nil {
			_ = in.root.Close() // nothing was written by it
		}
	}
}

func (f *folder) candidates(at string, info Info) []string {
	return candidates(path.Dir(at), nonempty(info.Locator[keyRelative]), nonempty(info.Locator[keyVolume], info.Locator[keyAbsolute]))
}

func (f *folder) open(_ context.Context, place string) (chainFile, error) {
	img, err := diskfile.OpenIn(f.root, filepath.FromSlash(place), &diskfile.OpenOptions{Live: f.live})
	if err != nil {
		return chainFile{}, err
	}
	return chainFile{img, filepath.Join(f.root.Name(), filepath.FromSlash(place))}, nil
}

func (f *folder) same(a, b chainFile) bool {
	one, ok := a.Image.(*diskfile.Image)
	other, also := b.Image.(*diskfile.Image)
	if !ok || !also {
		return false
	}
	fi, err := one.Stat()
	if err != nil {
		return false
	}
	fj, err := other.Stat()
	return err == nil && os.SameFile(fi, fj)
}

func (f *folder) where() string { return f.root.Name() }
