package smbstore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// holdName is the file in a folder that says that its writer lives.
const holdName = ".hold"

// hold is a folder that is in use. It is locked again when the connection that it was locked on is lost; a sweep in
// between may take the folder, and its writer makes another.
type hold struct {
	s   *state
	dir string
	k   *lock
}

// Hold locks a folder.
func (s *share) Hold(name string) (io.Closer, error) {
	h := &hold{s: s.state, dir: name}
	err := s.retry(func(l *link) (err error) {
		h.k, err = s.lock(l, path.Join(name, holdName))
		return err
	})
	if errors.Is(err, ErrBusy) {
		return nil, &fs.PathError{Op: "hold", Path: name, Err: vfs.ErrHeld}
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[name] = h
	return h, nil
}

// Close lets the folder go.
func (h *hold) Close() error {
	(&share{h.s, context.Background()}).release(h.dir)
	return nil
}

// release ends a hold of ours on a folder, if there is one.
func (s *share) release(dir string) {
	s.mu.Lock()
	var k *lock
	if h := s.holds[dir]; h != nil {
		k = h.k
	}
	delete(s.holds, dir)
	s.mu.Unlock()
	if k != nil && !k.l.dead() {
		k.release(s)
	}
}

// renewHolds locks what a lost connection let go.
func (s *share) renewHolds() {
	for _, h := range s.lapsed() {
		l, err := s.pool.take(true)
		if err != nil || l == nil {
			return // the next call tries
		}
		k, err := s.lock(l, path.Join(h.dir, holdName))
		if err == nil && !s.renewed(h, k) {
			k.release(s)
		}
		s.pool.put(l)
	}
}

// lapsed are the holds whose connection is gone.
func (s *share) lapsed() (out []*hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.holds {
		if h.k.l.dead() {
			out = append(out, h)
		}
	}
	return out
}

// renewed gives a hold its new lock, unless it was let go or renewed meanwhile.
func (s *share) renewed(h *hold, k *lock) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds[h.dir] != h || !h.k.l.dead() {
		return false
	}
	h.k = k
	return true
}
