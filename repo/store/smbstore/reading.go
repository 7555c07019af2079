package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// Open opens a regular file for reading.
func (s *share) Open(name string) (vfs.File, error) {
	r := &reading{s: s.state, name: name}
	if err := s.awaitRemoval(name); err != nil {
		return nil, err
	}
	err := s.retry(func(l *link) error {
		h, err := s.openHandle(l, name)
		if err != nil {
			return err
		}
		r.put(h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openHandle looks before it opens, since opening follows links.
func (s *share) openHandle(l *link, name string) (*handle, error) {
	fi, err := s.lstat(l, name)
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, &fs.PathError{Op: "open", Path: name, Err: vfs.ErrIrregular}
	}
	f, err := s.open(l, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &handle{l: l, f: f, size: fi.Size()}, nil
}

// reading is an object that can be read. Its handle is closed when it was not used for a while, since nobody can remove
// the object as long as it is open, and opened again by name when it is needed.
type reading struct {
	s    *state
	name string

	mu     sync.Mutex
	h      *handle
	users  int
	idle   *time.Timer
	closed bool
}

type handle struct {
	l    *link
	f    *smb2.File
	size int64
}

// ReadAt waits for a lost connection as long as the options say.
func (r *reading) ReadAt(p []byte, off int64) (int, error) {
	return r.ReadAtContext(context.Background(), p, off)
}

// ReadAtContext waits for a lost connection as long as the options and ctx say.
func (r *reading) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	s := &share{r.s, ctx}
	if err := s.awaitRemoval(r.name); err != nil {
		return 0, err
	}
	var short error
	err = s.retry(func(l *link) error {
		h, err := r.take(s, l)
		if err != nil {
			return err
		}
		n, err = h.readAt(ctx, p, off)
		switch ended := err != io.EOF && s.gone(h.l, err); {
		case ended && h.l != l:
			err = &otherLink{err}
		case err == io.EOF:
			short, err = io.EOF, nil
		}
		r.leave(h)
		return err
	})
	if err == nil {
		err = short
	}
	return n, err
}

// take gives the handle, opened where it is not.
func (r *reading) take(s *share, l *link) (*handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.h == nil || r.h.l.dead() {
		h, err := s.openHandle(l, r.name)
		if err != nil {
			return nil, err
		}
		r.h = h
		r.s.note(r, true)
	}
	r.users++
	return r.h, nil
}

// leave ends a use of the handle. One whose connection is gone is not used again.
func (r *reading) leave(h *handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	if r.h == h && h.l.dead() {
		r.h = nil
		r.s.note(r, false)
	}
	r.rest()
}

func (r *reading) put(h *handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h = h
	r.s.note(r, true)
	r.rest()
}

// rest lets the handle be closed after a while without use, or at once after Close. It is called with mu held.
func (r *reading) rest() {
	switch {
	case r.users > 0 || r.h == nil:
	case r.closed || r.s.goes(r.name):
		r.drop()
	case r.idle == nil:
		r.idle = time.AfterFunc(r.s.opts.KeepOpen, r.expire)
	default:
		r.idle.Reset(r.s.opts.KeepOpen)
	}
}

func (r *reading) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == 0 && r.h != nil {
		r.drop()
	}
}

// drop closes the handle without anybody waiting: closing what was read tells nothing.
func (r *reading) drop() {
	h := r.h
	r.h = nil
	r.s.note(r, false)
	r.s.pool.later(func() { _ = h.l.run(context.Background(), h.f.Close) })
}

// Close lets the handle go when nobody reads any more.
func (r *reading) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.idle != nil {
		r.idle.Stop()
	}
	r.rest()
	return nil
}

// Linked reports whether the handle is open, which keeps the object from being removed. Where it is not, the object is
// looked up by name.
func (r *reading) Linked() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.h != nil && !r.h.l.dead(), nil
}

func (r *reading) Size() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.h == nil {
		return 0, fs.ErrClosed
	}
	return r.h.size, nil
}

func (r *reading) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (r *reading) Sync() error               { return errors.ErrUnsupported }

// readAt reads until p is full or the file ends.
func (h *handle) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	want := int(max(0, min(int64(len(p)), h.size-off)))
	err := inPieces(want, func(from, to int) error {
		for from < to {
			var n int
			err := h.l.run(ctx, func() (err error) {
				n, err = h.f.ReadAt(p[from:to], off+int64(from))
				return err
			})
			err = disowned(err)
			if err == nil && n == 0 || err == io.EOF {
				err = fmt.Errorf("ends at byte %d of %d: %w", off+int64(from), h.size, io.ErrUnexpectedEOF)
			}
			if err != nil {
				return err
			}
			from += n
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case want < len(p):
		return want, io.EOF
	}
	return want, nil
}
