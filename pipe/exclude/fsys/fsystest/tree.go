package fsystest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/zeebo/blake3"
)

// Item is what one path of a tree is.
type Item struct {
	Mode   fs.FileMode
	Size   int64    // of regular files
	Sum    [32]byte // BLAKE3 of a regular file's content
	Target string   // of a symbolic link
	Mod    time.Time
	Node   uint64 // the driver's number for the file; 0 where it has none
	Links  uint32
	UID    uint32
	GID    uint32
}

// Tree holds every path below a folder, "" for the folder itself, the parts parted by "/".
type Tree map[string]Item

// Scan takes down all that is below dir, with the content's sums. It reads through the driver that mounted it.
func Scan(dir string) (Tree, error) {
	fi, err := os.Stat(dir) // a mount's folder may be a link to it
	if err != nil {
		return nil, err
	}
	tree := Tree{"": item(fi)}
	return tree, tree.scan(dir, "", map[uint64][32]byte{})
}

func item(fi fs.FileInfo) Item {
	it := Item{Mode: fi.Mode(), Mod: fi.ModTime()}
	if fi.Mode().IsRegular() {
		it.Size = fi.Size()
	}
	ownership(&it, fi)
	return it
}

// scan adds what is below the directory at. Names of one file are read once.
func (t Tree) scan(root, at string, sums map[uint64][32]byte) error {
	entries, err := os.ReadDir(root + "/" + at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := e.Name()
		if at != "" {
			path = at + "/" + path
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		it := item(fi)
		if err := it.content(root+"/"+path, sums); err != nil {
			return err
		}
		t[path] = it
		if e.IsDir() {
			if err := t.scan(root, path, sums); err != nil {
				return err
			}
		}
	}
	return nil
}

func (it *Item) content(path string, sums map[uint64][32]byte) (err error) {
	switch {
	case it.Mode.Type() == fs.ModeSymlink:
		it.Target, err = os.Readlink(path)
	case it.Mode.IsRegular():
		sum, known := sums[it.Node]
		if it.Sum = sum; known && it.Links > 1 {
			return nil
		}
		if it.Sum, err = sumFile(path); it.Links > 1 {
			sums[it.Node] = it.Sum
		}
	}
	return err
}

func sumFile(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	h := blake3.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return sum, errors.Join(fmt.Errorf("read %q: %w", path, err), f.Close())
	}
	copy(sum[:], h.Sum(nil))
	return sum, f.Close()
}

// Diff says where two scans of one tree differ; nil where they do not. Times and all are compared.
func (t Tree) Diff(other Tree) error {
	var all []error
	for path, a := range t {
		b, ok := other[path]
		switch a.Mod, b.Mod = a.Mod.UTC(), b.Mod.UTC(); {
		case !ok:
			all = append(all, fmt.Errorf("%q is gone", path))
		case a != b:
			all = append(all, fmt.Errorf("%q was %+v, is %+v", path, a, b))
		}
	}
	for path := range other {
		if _, ok := t[path]; !ok {
			all = append(all, fmt.Errorf("%q is new", path))
		}
	}
	return first(all)
}

// first joins the first few errors: a reader that is wrong is wrong in thousands of places.
func first(all []error) error {
	const some = 8
	if len(all) > some {
		all = append(all[:some:some], fmt.Errorf("and %d more", len(all)-some))
	}
	return errors.Join(all...)
}
