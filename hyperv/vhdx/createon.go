package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// CreateOn starts a VHDX, dynamic or fixed, with a disk of size bytes in a file that is empty: one on a host or a share. name
// stands in errors. A Parent is refused with fs.ErrInvalid, and so is a file that is not empty; of the options, those of a file
// are not used. The file is the target's from now on: it is closed with it, and where an error is returned. It becomes a disk at
// Commit, by its first bytes: one that was abandoned opens nowhere. Removing that is for who made it.
func CreateOn(ctx context.Context, file File, size int64, name string, opts *CreateOptions) (*Target, error) {
	o := CreateOptions{}
	if opts != nil {
		o = *opts
	}
	t := &Target{file: &remoteFile{file: file}}
	if err := t.beginOn(ctx, file, size, name, &o); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Target) beginOn(ctx context.Context, file File, size int64, name string, o *CreateOptions) error {
	switch {
	case o.Parent != "" || o.Type > Fixed:
		return fmt.Errorf("%s: a differencing disk cannot be made in a file elsewhere: %w", name, fs.ErrInvalid)
	case file.Size() != 0:
		return fmt.Errorf("%s: the file is not empty, it has %d bytes: %w", name, file.Size(), fs.ErrInvalid)
	}
	m, err := newMeta(size, o, nil)
	if err != nil {
		return err
	}
	store := &storeImage{storage: &freshStorage{File: file}}
	if t.writer, err = layOut(ctx, name, store, m, o.CacheBytes); err != nil {
		return err
	}
	t.size = size
	return nil
}

// remoteFile is a file elsewhere that becomes a disk.
type remoteFile struct {
	file   File
	closed bool
}

// Commit makes durable what was written before the first bytes say what it is.
func (r *remoteFile) Commit(ctx context.Context) error {
	err := r.file.Sync(ctx)
	if err == nil {
		_, err = r.file.WriteAt(ctx, identifierBlock(), 0)
	}
	if err == nil {
		err = r.file.Sync(ctx)
	}
	return errors.Join(err, r.Close())
}

func (r *remoteFile) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	return r.file.Close()
}

// freshStorage is a file that began empty: what was never written to is zero, and is not sent. Order among its writes is of
// no use before the last one.
type freshStorage struct {
	File
	mu      sync.Mutex
	written []uint64 // a bit for each MiB
}

func (s *freshStorage) Sync(context.Context) error { return nil }

func (s *freshStorage) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	s.mark(off, int64(len(p)))
	return s.File.WriteAt(ctx, p, off)
}

func (s *freshStorage) mark(off, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := off / mib; i*mib < off+n; i++ {
		for int64(len(s.written)) <= i/64 {
			s.written = append(s.written, 0)
		}
		s.written[i/64] |= 1 << (i % 64)
	}
}

func (s *freshStorage) touched(i int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return i/64 < int64(len(s.written)) && s.written[i/64]>>(i%64)&1 == 1
}

func (s *freshStorage) Zero(ctx context.Context, off, n int64) error {
	for end := off + n; off < end; {
		next := min(end, (off/mib+1)*mib)
		if s.touched(off / mib) {
			if err := writeZeros(ctx, s.File, off, next-off); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}
