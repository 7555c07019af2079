package vmdk

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// flatTarget is a disk of two files: its bytes, and the descriptor.
type flatTarget struct {
	base
	data       *diskfile.Target
	descriptor *diskfile.Pending
}

func createFlat(path string, size int64, d *Descriptor, o *CreateOptions) (pipe.ExtentTarget, error) {
	descriptor, err := diskfile.Begin(path, &o.CreateOptions)
	if err != nil {
		return nil, err
	}
	if _, err := descriptor.WriteAt(d.Append(nil), 0); err != nil {
		return nil, errors.Join(err, descriptor.Close())
	}
	name := filepath.Join(filepath.Dir(path), d.Extents[0].File)
	data, err := diskfile.Create(name, sectors(size)*sector, &o.CreateOptions)
	if err != nil {
		return nil, errors.Join(err, descriptor.Close())
	}
	return &flatTarget{base: base{path: path, size: size}, data: data, descriptor: descriptor}, nil
}

// WriteAt implements [pipe.Target].
func (t *flatTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.check(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	return t.data.WriteAt(ctx, p, off)
}

// Mark implements [pipe.ExtentTarget].
func (t *flatTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.checkMark(ctx, e); err != nil {
		return err
	}
	return t.data.Mark(ctx, e)
}

// Commit implements [pipe.Target]. The descriptor comes last: without it the other file is no disk.
func (t *flatTarget) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	if err := t.data.Commit(ctx); err != nil {
		return errors.Join(err, t.descriptor.Close())
	}
	return t.descriptor.Commit(ctx)
}

// Close implements [pipe.Target].
func (t *flatTarget) Close() error {
	t.closed.Store(true)
	return errors.Join(t.data.Close(), t.descriptor.Close())
}
