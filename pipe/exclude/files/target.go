package files

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// smallFile is the size in bytes up to which a file is copied in one piece.
const smallFile = 256 << 10

// fileTarget is an open file of the right length that holds nothing yet: what is marked zero stays a hole.
type fileTarget struct {
	file *os.File
	size int64

	mu  sync.Mutex
	err error // of a write: it is not the source that is at fault
}

var _ pipe.ExtentTarget = (*fileTarget)(nil)

func (t *fileTarget) Size() int64                             { return t.size }
func (t *fileTarget) Mark(context.Context, pipe.Extent) error { return nil }
func (t *fileTarget) Commit(context.Context) error            { return nil }
func (t *fileTarget) Close() error                            { return nil }

func (t *fileTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := t.file.WriteAt(p, off)
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.err == nil {
			t.err = err
		}
	}
	return n, err
}

func (t *fileTarget) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// small copies a whole file through one buffer.
func (t *fileTarget) small(ctx context.Context, img pipe.Image) error {
	if t.size == 0 {
		return nil
	}
	p := make([]byte, t.size)
	n, err := img.ReadAt(ctx, p, 0)
	if int64(n) < t.size {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := t.file.WriteAt(p, 0); err != nil {
		return outside{err}
	}
	return nil
}
