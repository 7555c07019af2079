package dirstore

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// maxFolders bounds what is remembered; folders beyond are synced once more.
const maxFolders = 1 << 16

// folders makes folders and knows which of them have durable names. A folder that is already there when it is first
// used may have been made a moment ago by somebody else, so its name is synced too, once for each open store.
type folders struct {
	fs vfs.FS
	*folderState
}

type folderState struct {
	mu     sync.Mutex
	known  map[string]*folder
	failed map[string]error // by folder: why its names are no longer believed to be durable
}

// folder is locked while it is made, so that whoever needs it too waits for its name to be durable.
type folder struct {
	mu      sync.Mutex
	durable bool
}

func newFolders(fsys vfs.FS) *folders {
	return &folders{fsys, &folderState{known: map[string]*folder{}, failed: map[string]error{}}}
}

// ensure makes a folder, and those above it, with durable names.
func (f *folders) ensure(dir string) error {
	if dir == "." {
		return nil
	}
	d := f.folder(dir)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable {
		return nil
	}
	parent := path.Dir(dir)
	if err := f.ensure(parent); err != nil {
		return err
	}
	if err := f.make(dir); err != nil {
		return err
	}
	if err := f.sync(parent); err != nil {
		return err
	}
	d.durable = true
	return nil
}

func (f *folders) make(dir string) error {
	err := f.fs.Mkdir(dir)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	fi, err := f.fs.Lstat(dir)
	if err == nil && !fi.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: dir, Err: vfs.ErrIrregular}
	}
	return err
}

// sync makes the names in a folder durable. A file system that has no such operation is left to Probe. Any other
// failure is remembered: the system tells of a lost write once, and a later success would mean nothing.
func (f *folders) sync(dir string) error {
	if err := f.trusted(dir); err != nil {
		return err
	}
	err := f.fs.SyncDir(dir)
	switch {
	case err == nil, errors.Is(err, errors.ErrUnsupported):
		return nil
	case crowded(err), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("names in %s: %w: %w", dir, store.ErrNotDurable, opaqueUnless(crowded(err), err))
	}
	f.mu.Lock()
	f.failed[dir] = err
	f.mu.Unlock()
	return f.trusted(dir)
}

// trusted gives the error that a folder's sync ended in, if any did.
func (f *folders) trusted(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failed[dir]; err != nil {
		return fmt.Errorf("names in %s: %w: %w", dir, store.ErrNotDurable, err)
	}
	return nil
}

func (f *folders) folder(dir string) *folder {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.known[dir]
	if d == nil {
		if len(f.known) >= maxFolders {
			clear(f.known)
		}
		d = new(folder)
		f.known[dir] = d
	}
	return d
}

// forget lets every folder be made again.
func (f *folders) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.known)
}

func opaqueUnless(keep bool, err error) error {
	if keep {
		return err
	}
	return opaque(err)
}
