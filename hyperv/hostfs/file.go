package hostfs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/hyperv/vhdx"
)

// file is a file that is written to, on a connection of its own.
type file struct {
	spot
	store  *Store
	l      *link
	f      *smb2.File
	size   atomic.Int64
	closed atomic.Bool
	lost   atomic.Bool

	mu    sync.Mutex
	solid int64 // nothing has been written from here on
}

var _ vhdx.File = (*file)(nil)

// OpenFile opens a file that exists for writing. None is fs.ErrNotExist; one that this store writes to already, or that
// somebody shares with no writer, is [ErrBusy].
func (s *Store) OpenFile(ctx context.Context, name string) (vhdx.File, error) {
	return s.write(ctx, "open", name, os.O_RDWR)
}

// Create makes a file; one that exists is fs.ErrExist. Its folder has to be there.
func (s *Store) Create(ctx context.Context, name string) (vhdx.File, error) {
	return s.write(ctx, "create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (s *Store) write(ctx context.Context, op, name string, flag int) (vhdx.File, error) {
	p, err := s.find(op, name)
	if err != nil {
		return nil, err
	}
	if !s.claim(p.key()) {
		return nil, p.fail(op, -1, ErrBusy)
	}
	f, err := openWrite(ctx, s, p, flag)
	if err != nil {
		s.release(p.key())
		return nil, p.fail(op, -1, err)
	}
	return f, nil
}

func (s *Store) claim(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing[key] {
		return false
	}
	s.writing[key] = true
	return true
}

func (s *Store) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, key)
}

// openWrite opens the file on a connection of its own. Opening is tried once more where the connection is lost, making is not: who
// was not answered does not know whose file is there.
func openWrite(ctx context.Context, s *Store, p spot, flag int) (*file, error) {
	for again := flag&os.O_CREATE == 0; ; again = false {
		l, err := p.own(ctx)
		if err != nil {
			return nil, err
		}
		f := &file{spot: p, store: s, l: l}
		err = f.open(ctx, flag)
		if err == nil {
			return f, nil
		}
		gone := p.gone(ctx, l, err)
		p.disown(l)
		switch {
		case gone && again:
			continue
		case gone:
			err = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return nil, err
	}
}

func (f *file) open(ctx context.Context, flag int) error {
	err := f.patient(ctx, func() error {
		return f.l.run(ctx, func() (err error) {
			f.f, err = f.l.share.OpenFile(f.path, flag, 0o600)
			return err
		})
	})
	if err != nil {
		return err
	}
	is, err := stat(ctx, f.l, f.f)
	if err != nil {
		return err // the connection ends, and the file with it
	}
	f.solid = is.size
	f.size.Store(is.size)
	return nil
}

// Size is the file's length in bytes, as it is now.
func (f *file) Size() int64 { return f.size.Load() }

// run makes one call on the file. A connection that was lost takes the file with it.
func (f *file) run(ctx context.Context, op string, off int64, call func() error) error {
	if f.closed.Load() {
		return f.fail(op, off, fs.ErrClosed)
	}
	if f.lost.Load() {
		return f.fail(op, off, ErrLost)
	}
	err := f.l.run(ctx, call)
	if err == nil || err == io.EOF {
		return err
	}
	if lost(err) || f.l.dead() {
		f.l.kill()
		f.lost.Store(true)
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	return f.fail(op, off, err)
}

// ReadAt reads what the file holds now, with the contract of [pipe.Image] but for that.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.fail("read", off, fs.ErrInvalid)
	}
	want := int(max(0, min(int64(len(p)), f.Size()-off)))
	err := inPieces(want, func(from, to int) error {
		for from < to {
			n := 0
			err := f.run(ctx, "read", off+int64(from), func() (err error) {
				n, err = f.f.ReadAt(p[from:to], off+int64(from))
				return err
			})
			if err == io.EOF || err == nil && n <= 0 {
				return f.fail("read", off+int64(from), io.ErrUnexpectedEOF)
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

// WriteAt writes into the file, which grows where it has to.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if off < 0 || end < off {
		return 0, f.fail("write", off, fs.ErrInvalid)
	}
	if err := f.reach(ctx, off, end); err != nil {
		return 0, err
	}
	err := inPieces(len(p), func(from, to int) error { return f.writePiece(ctx, p[from:to], off+int64(from)) })
	if err != nil {
		return 0, err
	}
	for size := f.size.Load(); size < end && !f.size.CompareAndSwap(size, end); size = f.size.Load() {
	}
	return len(p), nil
}

func (f *file) writePiece(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		n := 0
		err := f.run(ctx, "write", off, func() (err error) {
			n, err = f.f.WriteAt(p, off)
			if err == nil && n <= 0 {
				err = io.ErrShortWrite
			}
			return err
		})
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// stride is how far ahead of everything else a write may be.
const stride = 1 << 30

// reach goes to a place far behind everything that was written in strides: NTFS fills what lies between with zeros before it
// answers, and for much of it that takes longer than any request may.
func (f *file) reach(ctx context.Context, off, end int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for off-f.solid > stride {
		if err := f.writePiece(ctx, []byte{0}, f.solid+stride-1); err != nil {
			return err
		}
		f.solid += stride
	}
	f.solid = max(f.solid, end)
	return nil
}

// Truncate sets the length; what is added reads as zeros.
func (f *file) Truncate(ctx context.Context, size int64) error {
	if size < 0 {
		return f.fail("resize", size, fs.ErrInvalid)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.run(ctx, "resize", size, func() error { return f.f.Truncate(size) })
	if err != nil {
		return err
	}
	f.solid = min(f.solid, size)
	f.size.Store(size)
	return nil
}

// Sync returns when all that was written before is durable, as far as the server is to be believed.
func (f *file) Sync(ctx context.Context) error {
	return f.run(ctx, "sync", -1, f.f.Sync)
}

// Close implements [pipe.Image]: an error is one of what was written before. It may be called again.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	defer f.store.release(f.key())
	defer f.disown(f.l)
	if f.lost.Load() || f.l.dead() {
		return f.fail("close", -1, ErrLost)
	}
	return f.fail("close", -1, f.l.run(context.Background(), f.f.Close))
}
