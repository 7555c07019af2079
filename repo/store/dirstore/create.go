package dirstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

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
	s = s.on(ctx)
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
	if err := s.publish(ctx, temp, name, data); err != nil {
		return errors.Join(err, s.discard(temp))
	}
	return s.room(func() error { return s.folders.sync(dir) })
}

// vacant looks before 16 MiB are written for nothing.
func (s *Store) vacant(name string) error {
	fi, err := s.lstat(name)
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

// write makes a durable file without an object's name. One whose close failed, or whose connection was lost, is given
// up, and the data goes into another; what then stands in that is read back.
func (s *Store) write(ctx context.Context, data []byte) (temp string, err error) {
	temp, err = s.writeOnce(ctx, data)
	for tries := 1; tries < again(err) && ctx.Err() == nil; tries++ {
		temp, err = s.writeOnce(ctx, data)
		if err == nil {
			err = s.readBack(ctx, temp, data)
		}
	}
	return temp, err
}

// errClose says that closing a file told of something that writing and syncing it had not.
var errClose = errors.New("close")

// again says how often a file may be written that failed so. A disk that cannot close is asked rarely. A connection that
// comes back is worth more: on a bad line most files may need several, and the file system bounds how long each is
// waited for.
func again(err error) int {
	switch {
	case stale(err):
		return 64
	case errors.Is(err, errClose):
		return 3
	}
	return 1
}

func (s *Store) writeOnce(ctx context.Context, data []byte) (temp string, err error) {
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
		err = fmt.Errorf("%w: %w: %w", store.ErrNotDurable, errClose, closeErr)
	}
	if err == nil {
		err = ctx.Err() // the last chance to turn back
	}
	if err != nil {
		return "", errors.Join(err, s.discard(temp))
	}
	return temp, nil
}

// readBack reads a file by name and compares. One that differs is removed.
func (s *Store) readBack(ctx context.Context, temp string, data []byte) error {
	same, err := s.holds(ctx, temp, data)
	if err == nil && !same {
		err = fmt.Errorf("%w: %s does not hold what was written", store.ErrNotDurable, temp)
	}
	if err != nil {
		return errors.Join(err, s.discard(temp))
	}
	return nil
}

// holds reports whether a file has exactly this content.
func (s *Store) holds(ctx context.Context, name string, data []byte) (same bool, err error) {
	var f vfs.File
	err = s.room(func() error {
		f, err = s.fs.Open(name)
		return err
	})
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size != int64(len(data)) {
		return false, err
	}
	p := make([]byte, min(len(data), chunk))
	for off := 0; off < len(data); off += len(p) {
		p = p[:min(len(p), len(data)-off)]
		n, err := readFile(ctx, f, p, int64(off))
		if n < len(p) && err != io.EOF {
			return false, err
		}
		if !bytes.Equal(p[:n], data[off:off+len(p)]) {
			return false, nil
		}
	}
	return true, nil
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

// publish gives the file its name. It never replaces. Where the answer was lost, a look at both names tells what was
// done.
func (s *Store) publish(ctx context.Context, temp, name string, data []byte) error {
	doubt := false
	for tries := 1; ; tries++ {
		err := s.publishOnce(temp, name)
		lost := stale(err)
		doubt = doubt || lost
		if !lost && !(doubt && errors.Is(err, fs.ErrExist)) { // what was lost may have been done late
			return err
		}
		settled, look := s.settled(ctx, temp, name, data)
		switch {
		case settled:
			return look
		case look != nil || lost && (tries >= publishTries || ctx.Err() != nil):
			return opaque(errors.Join(err, look, ctx.Err()))
		case !lost:
			return err
		}
	}
}

// settled looks what became of a name whose giving was not answered. A file that still has its first name was not
// given the other. One that has not, and whose content stands there, was: nobody else knows its first name but a sweep,
// and content that a sweep took away is not under the name, unless somebody else stored the very same.
func (s *Store) settled(ctx context.Context, temp, name string, data []byte) (settled bool, err error) {
	_, err = s.lstat(temp)
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	same, err := s.holds(ctx, name, data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, err // both names are gone: the caller makes another file
	case err != nil:
		return false, err
	case !same:
		return true, fs.ErrExist
	}
	return true, nil
}

// publishTries bounds how often a name is asked for while the connection goes away.
const publishTries = 64

func (s *Store) publishOnce(temp, name string) error {
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

// discardWait bounds how long an unfinished file is worth waiting for, since the caller may be gone.
const discardWait = 5 * time.Second

// discard removes an unfinished file. That it stays is worth telling, and no answer about the object.
func (s *Store) discard(temp string) error {
	ctx, cancel := context.WithTimeout(context.Background(), discardWait)
	defer cancel()
	err := s.base.on(ctx).fs.Remove(temp)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s stays for a sweep: %w", temp, opaque(err))
}
