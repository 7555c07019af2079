package dirstore

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"

	"github.com/hikae/hikae/repo/store"
)

// reserveName is a file that is worth nothing but the room it takes. It is no object's name.
const reserveName = ".reserve"

var _ store.Reserver = (*Store)(nil)

// Reserve keeps room in a file of its own, filled with noise, since some file systems store zeros in no room at all. Where the
// directory is not a folder of this machine it keeps none.
func (s *Store) Reserve(ctx context.Context, bytes int64) (kept int64, err error) {
	if err := s.begin(ctx); err != nil {
		return 0, fail("reserve room in", ".", err)
	}
	defer s.work.Done()
	if s.dir == "" || bytes <= 0 {
		return 0, nil
	}
	if fi, err := s.fs.Lstat(reserveName); err == nil && fi.Size() >= bytes {
		return fi.Size(), nil
	}
	free, err := s.fs.Free()
	if err != nil {
		return 0, fail("reserve room in", ".", err)
	}
	if err := s.release(); err != nil {
		return 0, fail("reserve room in", ".", err)
	}
	if after, err := s.fs.Free(); err == nil {
		free = after
	}
	if bytes = min(bytes, free); bytes == 0 {
		return 0, nil
	}
	return bytes, fail("reserve room in", ".", s.fillReserve(ctx, bytes))
}

func (s *Store) fillReserve(ctx context.Context, bytes int64) error {
	noise := make([]byte, bytes)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	f, err := s.fs.Create(reserveName)
	if err != nil {
		return err
	}
	err = fill(ctx, f, noise)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.release())
	}
	return nil
}

// Release gives the room back.
func (s *Store) Release(ctx context.Context) (freed int64, err error) {
	if err := s.begin(ctx); err != nil {
		return 0, fail("release room in", ".", err)
	}
	defer s.work.Done()
	fi, err := s.fs.Lstat(reserveName)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		freed, err = fi.Size(), s.release()
	}
	return freed, fail("release room in", ".", err)
}

func (s *Store) release() error {
	err := s.fs.Remove(reserveName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
