package dirstore

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

var _ store.Mender = (*Store)(nil)

// Mend replaces a damaged object by its right bytes: they are written beside it, synced and read back, and a rename puts
// them into its place. Whoever has the object open goes on reading the damaged one until it is opened again.
func (s *Store) Mend(ctx context.Context, name string, data []byte) error {
	if !store.ValidName(name) {
		return fail("mend", name, fs.ErrInvalid)
	}
	if err := s.begin(ctx); err != nil {
		return fail("mend", name, err)
	}
	defer s.work.Done()
	return fail("mend", name, s.lockedError(ctx, name, s.on(ctx).mend(ctx, name, data)))
}

func (s *Store) mend(ctx context.Context, name string, data []byte) error {
	damaged, err := s.fs.Open(name)
	if err != nil {
		return err
	}
	defer damaged.Close()
	temp, err := s.write(ctx, data)
	if err != nil {
		return err
	}
	if err := s.readBack(ctx, temp, data); err != nil {
		return err
	}
	err = s.still(ctx, name, func() error {
		if err := s.there(name); err != nil { // removed while we wrote
			return err
		}
		if err := stands(damaged); err != nil {
			return err
		}
		s.handles.drop(name) // some systems do not replace what is open
		return s.room(func() error { return s.fs.Rename(temp, name) })
	})
	s.handles.drop(name)
	if err != nil {
		return errors.Join(err, s.discard(temp))
	}
	return s.room(func() error { return s.folders.sync(path.Dir(name)) })
}

// errOther says that another object took the damaged one's name while the right bytes were written.
const errOther = constError("it was removed meanwhile, and created anew")

// stands reports whether a file still has its name, and lets go of it: some systems do not replace what is open.
func stands(f vfs.File) error {
	linked, err := f.Linked()
	if err == nil && !linked {
		err = errOther
	}
	return errors.Join(err, f.Close())
}

// there looks whether an object has the name.
func (s *Store) there(name string) error {
	fi, err := s.lstat(name)
	if err == nil && !fi.Mode().IsRegular() {
		err = vfs.ErrIrregular
	}
	return err
}
