package dirstore

import (
	"context"
	"io/fs"
	"path"

	"github.com/hikae/hikae/repo/store"
)

// Remove removes an object durably. Its folder stays: removing that too would race with whoever creates in it.
func (s *Store) Remove(ctx context.Context, name string) error {
	if !store.ValidName(name) {
		return fail("remove", name, fs.ErrInvalid)
	}
	if err := s.begin(ctx); err != nil {
		return fail("remove", name, err)
	}
	defer s.work.Done()
	return fail("remove", name, s.lockedError(ctx, name, s.on(ctx).remove(ctx, name)))
}

func (s *Store) remove(ctx context.Context, name string) error {
	err := s.still(ctx, name, func() error {
		if err := s.there(name); err != nil {
			return err
		}
		s.handles.drop(name) // some systems do not remove what is open
		return s.fs.Remove(name)
	})
	s.handles.drop(name)
	if err != nil {
		return err
	}
	return s.room(func() error { return s.folders.sync(path.Dir(name)) })
}

// Settle syncs every folder under prefix and every folder that leads to it. What an object holds needs no settling:
// it was synced before it had a name.
func (s *Store) Settle(ctx context.Context, prefix string) error {
	if err := s.begin(ctx); err != nil {
		return fail("settle", prefix, err)
	}
	defer s.work.Done()
	return fail("settle", prefix, s.on(ctx).settle(ctx, prefix))
}

func (s *Store) settle(ctx context.Context, prefix string) error {
	dir, err := s.top(ctx, prefix)
	if err != nil || dir == "" {
		return err
	}
	sync := func(dir string) error {
		return s.room(func() error { return s.folders.sync(dir) })
	}
	for up := dir; ; up = path.Dir(up) {
		if err := sync(up); err != nil {
			return err
		}
		if up == "." {
			break
		}
	}
	return s.walk(ctx, dir, func(name string, fi fs.FileInfo) error {
		if fi.IsDir() {
			return sync(name)
		}
		return nil
	})
}
