package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// chunk is written between two looks at the context.
const chunk = 4 << 20

// Create stores an object as the package comment shows. An error of the system is found by errors.Is
// (syscall.ENOSPC, EDQUOT, EROFS …); no unfinished file stays. Where only the last step failed, the object is
// visible and whole, and the error is store.ErrNotDurable.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if !store.ValidName(name) {
		return fail("create", name, fs.ErrInvalid)
	}
	if err := s.begin(ctx); err != nil {
		return fail("create", name, err)
	}
	defer s.work.Done()
	err := s.create(ctx, name, data)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed a folder that was there: make it again, once.
		s.folders.forget()
		s.scratch.forget()
		if err = s.create(ctx, name, data); errors.Is(err, fs.ErrNotExist) {
			err = opaque(err)
		}
	}
	return fail("create", name, err)
}

func (s *Store) create(ctx context.Context, name string, data []byte) error {
	if err := s.vacant(name); err != nil {
		return err
	}
	dir := path.Dir(name)
	if err := s.room(func() error { return s.folders.ensure(dir) }); err != nil {
		return err
	}
	temp, err := s.write(ctx, data)
	if err != nil {
		return err
	}
	if err := s.publish(temp, name); err != nil {
		return errors.Join(err, s.discard(temp))
	}
	return s.room(func() error { return s.folders.sync(dir) })
}

// vacant looks before 16 MiB are written for nothing.
func (s *Store) vacant(name string) error {
	fi, err := s.fs.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.folders.trusted(path.Dir(name))
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return vfs.ErrIrregular
	}
	return fs.ErrExist
}

// write makes a durable file without an object's name.
func (s *Store) write(ctx context.Context, data []byte) (temp string, err error) {
	var f vfs.File
	err = s.room(func() error {
		temp, f, err = s.scratch.create()
		return err
	})
	switch {
	case err == nil:
	case temp == "" || crowded(err): // surely not made
		return "", err
	default:
		return "", errors.Join(err, s.discard(temp))
	}
	err = fill(ctx, f, data)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("%w: %w", store.ErrNotDurable, closeErr)
	}
	if err == nil {
		err = ctx.Err() // the last chance to turn back
	}
	if err != nil {
		return "", errors.Join(err, s.discard(temp))
	}
	return temp, nil
}

func fill(ctx context.Context, f vfs.File, data []byte) error {
	size := int64(len(data))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := data[off:min(off+chunk, size)]
		n, err := f.Write(part)
		if err == nil && n < len(part) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write at byte %d of %d: %w", off+int64(max(n, 0)), size, err)
		}
		off += int64(n)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotDurable, err)
	}
	got, err := f.Size()
	if err != nil {
		return err
	}
	if got != size { // a write that lied
		return fmt.Errorf("%d of %d bytes arrived: %w", got, size, io.ErrShortWrite)
	}
	return nil
}

// publish gives the file its name. It never replaces.
func (s *Store) publish(temp, name string) error {
	err := s.room(func() error { return s.fs.Publish(temp, name) })
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return s.publishAlone(temp, name)
	case errors.Is(err, fs.ErrExist):
		return s.taken(name, err)
	}
	return err
}

// taken tells an object that won the race from a thing that is none.
func (s *Store) taken(name string, exist error) error {
	fi, err := s.fs.Lstat(name)
	if err == nil && !fi.Mode().IsRegular() {
		return vfs.ErrIrregular
	}
	return exist
}

// publishAlone is for file systems without any exclusive operation (Probe says so): exclusive within this process.
func (s *Store) publishAlone(temp, name string) error {
	s.solo.Lock()
	defer s.solo.Unlock()
	if err := s.vacant(name); err != nil {
		return err
	}
	return s.fs.Rename(temp, name)
}

// discard removes an unfinished file. That it stays is worth telling, and no answer about the object.
func (s *Store) discard(temp string) error {
	err := s.fs.Remove(temp)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s stays for a sweep: %w", temp, opaque(err))
}
