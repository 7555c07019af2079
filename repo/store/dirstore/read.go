package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// ReadAt reads part of an object.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if !store.ValidName(name) || off < 0 {
		return 0, fail("read", name, fs.ErrInvalid)
	}
	if err := s.alive(ctx); err != nil {
		return 0, fail("read", name, err)
	}
	s = s.on(ctx)
	n, err := s.readAt(ctx, name, p, off)
	if stale(err) {
		s.handles.drop(name)
		n, err = s.readAt(ctx, name, p, off)
	}
	if err == io.EOF {
		return n, io.EOF
	}
	return n, fail("read", name, err)
}

func (s *Store) readAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	h, err := s.handles.get(name)
	if err != nil {
		return 0, err
	}
	defer s.handles.put(h)
	n, err := readFile(ctx, h.file, p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == io.EOF:
		return n, io.EOF
	case err == nil: // a promise of io.ReaderAt that a file system broke
		err = io.ErrNoProgress
	}
	return n, fmt.Errorf("at byte %d: %w", off+int64(n), err)
}

func readFile(ctx context.Context, f vfs.File, p []byte, off int64) (int, error) {
	if r, ok := f.(vfs.ContextReader); ok {
		return r.ReadAtContext(ctx, p, off)
	}
	return f.ReadAt(p, off)
}

// lstat describes what is at a name, looked up once more where the system's memory of it was stale.
func (s *Store) lstat(name string) (fi fs.FileInfo, err error) {
	err = fresh(func() error {
		fi, err = s.fs.Lstat(name)
		return err
	})
	return fi, err
}

// Stat returns an object's size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if !store.ValidName(name) {
		return store.Info{}, fail("stat", name, fs.ErrInvalid)
	}
	if err := s.alive(ctx); err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	fi, err := s.on(ctx).lstat(name)
	if err == nil && !fi.Mode().IsRegular() {
		err = vfs.ErrIrregular
	}
	if err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	return store.Info{Name: name, Size: fi.Size()}, nil
}

// List yields the objects under prefix. Files and folders whose names no object could have, links, pipes and devices
// are left out.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := s.on(ctx).list(ctx, prefix, yield); err != nil && err != errStop {
			yield(store.Info{}, fail("list", prefix, err))
		}
	}
}

// errStop ends a walk because the caller has seen enough.
var errStop = errors.New("stop")

func (s *Store) list(ctx context.Context, prefix string, yield func(store.Info, error) bool) error {
	dir, err := s.top(ctx, prefix)
	if err != nil || dir == "" {
		return err
	}
	return s.walk(ctx, dir, func(name string, fi fs.FileInfo) error {
		if fi.Mode().IsRegular() && !yield(store.Info{Name: name, Size: fi.Size()}, nil) {
			return errStop
		}
		return nil
	})
}

// top is the folder that a prefix stands for, or "" where there is none.
func (s *Store) top(ctx context.Context, prefix string) (string, error) {
	if !store.ValidPrefix(prefix) {
		return "", fs.ErrInvalid
	}
	if err := s.alive(ctx); err != nil {
		return "", err
	}
	dir := path.Clean(strings.TrimSuffix(prefix, "/"))
	fi, err := s.lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case fi.Mode().IsRegular(): // an object has nothing below it
		return "", nil
	case !fi.IsDir():
		return "", vfs.ErrIrregular
	}
	return dir, nil
}

// walk visits the folders and objects below a folder. A folder is visited before what is in it.
func (s *Store) walk(ctx context.Context, dir string, visit func(name string, fi fs.FileInfo) error) error {
	for fi, err := range s.fs.ReadDir(dir) {
		if err == nil {
			err = s.alive(ctx)
		}
		if err != nil {
			return err
		}
		name := path.Join(dir, fi.Name())
		if !store.ValidName(name) || !fi.IsDir() && !fi.Mode().IsRegular() {
			continue
		}
		if err := visit(name, fi); err != nil {
			return err
		}
		if !fi.IsDir() {
			continue
		}
		if err := s.walk(ctx, name, visit); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
