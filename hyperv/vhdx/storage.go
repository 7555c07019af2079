package vhdx

import (
	"context"
	"io"
	"os"
	"sync/atomic"

	"github.com/hikae/hikae/pipe/diskfile"
)

// storage is what a disk file is written to. Reads where nothing was written yet may end early.
type storage interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	Zero(ctx context.Context, off, n int64) error
	Truncate(ctx context.Context, size int64) error
	// Sync returns when all that was written before is durable.
	Sync(ctx context.Context) error
}

// localStorage is a file of this machine. What it does ends without a context.
type localStorage struct {
	f interface {
		io.ReaderAt
		io.WriterAt
		Truncate(size int64) error
	}
}

func (s localStorage) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return s.f.ReadAt(p, off)
}

func (s localStorage) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return s.f.WriteAt(p, off)
}

func (s localStorage) Truncate(_ context.Context, size int64) error { return s.f.Truncate(size) }

// pendingStorage is a file that nobody sees before its Commit, which syncs it: order among its writes is of no use.
type pendingStorage struct {
	localStorage
	file *diskfile.Pending
}

func newPendingStorage(f *diskfile.Pending) pendingStorage {
	return pendingStorage{localStorage{f}, f}
}

func (s pendingStorage) Zero(_ context.Context, off, n int64) error { return s.file.Zero(off, n) }

func (s pendingStorage) Sync(context.Context) error { return nil }

// fileStorage is a file that exists.
type fileStorage struct {
	localStorage
	file *os.File
}

func newFileStorage(f *os.File) fileStorage { return fileStorage{localStorage{f}, f} }

func (s fileStorage) Zero(ctx context.Context, off, n int64) error {
	return writeZeros(ctx, s, off, n)
}

func (s fileStorage) Sync(context.Context) error { return s.file.Sync() }

// writeZeros writes zeros: a hole would give space back that the disk's owner has set aside.
func writeZeros(ctx context.Context, s interface {
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
}, off, n int64,
) error {
	zeros := make([]byte, min(n, mib))
	for n > 0 {
		m, err := s.WriteAt(ctx, zeros[:min(n, int64(len(zeros)))], off)
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
	n, err := s.storage.ReadAt(ctx, want, off)
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
func (s *storeImage) grow(ctx context.Context, size int64) error {
	if err := s.Truncate(ctx, size); err != nil {
		return err
	}
	s.size.Store(size)
	return nil
}
