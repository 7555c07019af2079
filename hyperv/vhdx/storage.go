package vhdx

import (
	"context"
	"io"
	"os"
	"sync/atomic"

	"github.com/hikae/hikae/pipe/diskfile"
)

// storage is a file that is written to. Sync returns when all that was written before is durable.
type storage interface {
	io.ReaderAt
	io.WriterAt
	Zero(off, n int64) error
	Truncate(size int64) error
	Sync() error
}

// pendingStorage is a file that nobody sees before its Commit, which syncs it: order among its writes is of no use.
type pendingStorage struct{ *diskfile.Pending }

func (pendingStorage) Sync() error { return nil }

// fileStorage is a file that exists.
type fileStorage struct{ *os.File }

// Zero writes zeros: a hole would give space back that the disk's owner has set aside.
func (f fileStorage) Zero(off, n int64) error {
	zeros := make([]byte, min(n, mib))
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

// storeImage is a storage as an image, as long as it is at the moment.
type storeImage struct {
	storage
	size atomic.Int64
}

func (s *storeImage) Size() int64 { return s.size.Load() }

func (s *storeImage) Close() error { return nil }

// ReadAt implements [pipe.Image]. Where the storage ends early, a length that was set is not yet there: zeros.
func (s *storeImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	want := p[:min(int64(len(p)), max(s.Size()-off, 0))]
	n, err := s.storage.ReadAt(want, off)
	if err == io.EOF {
		clear(want[n:])
		n, err = len(want), nil
	}
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return n, err
}

// grow sets the storage's length.
func (s *storeImage) grow(size int64) error {
	if err := s.Truncate(size); err != nil {
		return err
	}
	s.size.Store(size)
	return nil
}
