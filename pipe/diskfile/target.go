package diskfile

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/pipe"
)

// Target is a raw file that is being made. It has the extents ability.
type Target struct {
	file *Pending
	size int64
}

var _ pipe.ExtentTarget = (*Target)(nil)

// Create starts a raw file of size bytes at path, with the errors of [Begin]. The file appears at Commit; what was not
// written, and zeros that were, are holes.
func Create(path string, size int64, opts *CreateOptions) (*Target, error) {
	file, err := Begin(path, opts)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(size); err != nil {
		file.Close()
		return nil, err
	}
	return &Target{file: file, size: size}, nil
}

// Size implements [pipe.Target].
func (t *Target) Size() int64 { return t.size }

// WriteAt implements [pipe.Target].
func (t *Target) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := checkWrite(ctx, t.file.path, int64(len(p)), off, t.size); err != nil {
		return 0, err
	}
	return t.file.WriteAt(p, off)
}

// checkWrite refuses ranges outside of a target.
func checkWrite(ctx context.Context, path string, n, off, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > size || n > size-off {
		return ioError("write", path, off, fmt.Errorf("%w: %d bytes leave the disk of %d", fs.ErrInvalid, n, size))
	}
	return nil
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero; Unchanged is ErrNoBase.
func (t *Target) Mark(ctx context.Context, e pipe.Extent) error {
	if err := checkMark(ctx, t.file.path, e, t.size); err != nil {
		return err
	}
	if e.Kind == pipe.Unchanged {
		return ioError("mark", t.file.path, e.Off, ErrNoBase)
	}
	return t.file.Zero(e.Off, e.Len)
}

func checkMark(ctx context.Context, path string, e pipe.Extent, size int64) error {
	if err := checkWrite(ctx, path, e.Len, e.Off, size); err != nil {
		return err
	}
	if e.Kind == pipe.Unchanged || e.Kind == pipe.Zero || e.Kind.Dropped() {
		return nil
	}
	return ioError("mark", path, e.Off, fmt.Errorf("%w: %v cannot be marked", fs.ErrInvalid, e.Kind))
}

// Commit implements [pipe.Target], with the errors of [Pending.Commit].
func (t *Target) Commit(ctx context.Context) error { return t.file.Commit(ctx) }

// Close implements [pipe.Target].
func (t *Target) Close() error { return t.file.Close() }
